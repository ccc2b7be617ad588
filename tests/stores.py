"""Run stores as runs leave them, written from records."""

import json
from collections.abc import Sequence
from pathlib import Path

from alignment.barrier import DEFINITION
from server.records import (
    BarrierRecord,
    GuardRecord,
    MatchingRecord,
    PathRecord,
    RefusedRecord,
    RoundRecord,
    Score,
    SitePaths,
    TrafficRecord,
)
from strategies.settings import Settings

LINE = PathRecord(lambdas=[0.0, 0.5, 1.0], losses=[0.1, 1.3, 0.3], accuracies=[0.9, 0.5, 0.8], barrier=1.1)
FLAT = PathRecord(lambdas=[0.0, 0.5, 1.0], losses=[0.1, 0.3, 0.3], accuracies=[0.9, 0.85, 0.8], barrier=0.1)
SCORE = Score(accuracy=0.95, loss=0.2, count=100)

COMPLETE = RoundRecord(
    round=1,
    outcome="merged",
    reference="site-us",
    weights={"site-eu": 100.0, "site-us": 300.0},
    refused=[RefusedRecord(site="site-3", reason="NOT_FINITE", detail="tensor 'fc.weight'")],
    matchings={
        "site-eu": MatchingRecord(
            objective=20.0, gain=5.0, sweeps=3, converged=True, moved={"conv1": 0.75, "fc": 0.5}, seconds=2.0
        )
    },
    merged=SCORE,
    own={"site-eu": Score(accuracy=0.99, loss=0.05, count=50), "site-us": Score(accuracy=0.98, loss=0.07, count=50)},
    baselines={
        "site-eu": Score(accuracy=0.8, loss=0.3, count=100),
        "site-us": Score(accuracy=0.9, loss=0.4, count=100),
        "ensemble": Score(accuracy=0.97, loss=0.1, count=100),
        "naive.recalibrated": Score(accuracy=0.6, loss=1.0, count=100),
    },
    guard={"site-eu": GuardRecord(decision="aligned", gain=5.0, naive_loss=1.3, aligned_loss=0.3)},
    paths={"site-eu": SitePaths(naive=LINE, aligned=FLAT)},
    barrier=BarrierRecord(naive=1.1, aligned=0.1, definition=DEFINITION),
    traffic={"site-eu": TrafficRecord(sent=1000, received=500), "site-us": TrafficRecord(sent=1100, received=600)},
    seconds={"train": 40.0, "merge": 0.2, "probe": 10.0},
    variance={"bn1": 0.9, "layer1.0.bn1": 0.7},
    recalibration_samples=400,
    inputs_sha256={"site-eu": "ab" * 32, "site-us": "cd" * 32},
    checkpoint_sha256="ef" * 32,
    checkpoint_bytes=4096,
    finished=1_700_000_100.0,
)
VOID = RoundRecord(
    round=2,
    outcome="void",
    reference="",
    weights={"site-us": 300.0},
    refused=[RefusedRecord(site="site-eu", reason="LATE", detail="silent")],
    matchings={},
    seconds={"train": 3600.0},
    finished=1_700_003_700.0,
)
FINISHED: dict[str, object] = {
    "round": 1,
    "rounds": 2,
    "phase": "finished",
    "started": 1_700_000_000.0,
    "since": 1_700_000_101.0,
    "updated": 1_700_000_101.0,
    "joined": ["site-3", "site-eu", "site-us"],
    "asked": ["site-eu", "site-us"],
    "replied": ["site-us"],
    "refused": {"site-3": "NOT_FINITE", "site-4": "LATE"},
    "resident_bytes": 12345678,
}


TRAINING: dict[str, object] = {
    "round": 3,
    "phase": "train",
    "since": 1_700_003_800.0,
    "deadline": 1_700_003_900.0,
    "asked": ["site-3", "site-eu", "site-us"],
    "replied": ["site-3", "site-us"],
    "refused": {"site-3": "NOT_FINITE"},
}


def line(record: RoundRecord) -> str:
    """``record`` as it stands in ``rounds.jsonl``."""
    return json.dumps(record.model_dump()) + "\n"


def write_run(
    folder: Path, records: Sequence[RoundRecord], status: dict[str, object] | None = None, **settings: object
) -> Path:
    """A run's folder with these rounds' records."""
    folder.mkdir(parents=True, exist_ok=True)
    told = Settings.model_validate({"run": folder.name, **{key.replace("_", "-"): v for key, v in settings.items()}})
    (folder / "settings.json").write_text(json.dumps(told.model_dump(by_alias=True)), encoding="utf-8")
    (folder / "status.json").write_text(json.dumps(FINISHED | (status or {})), encoding="utf-8")
    (folder / "rounds.jsonl").write_text("".join(map(line, records)), encoding="utf-8")
    return folder
