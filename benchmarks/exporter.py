"""How long a scrape takes of a large run store: ``python -m benchmarks.exporter``.

100 runs of 500 rounds of 50 sites, each line as long as a ResNet-20's with a path of 25 points to every site. All runs
but the newest share one file of rounds, since a hundred would be ten GB; the newest, which is the one that is read,
grows by a line before every scrape. Real HTTP on loopback.
"""

import json
import os
import random
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from alignment.barrier import DEFINITION
from server.exporter import Listening, RunCollector, start_exporter
from server.follow import Follower
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

N_RUNS, N_ROUNDS, N_SITES, N_GROUPS, N_SCRAPES = 100, 500, 50, 10, 50
PORT = 19464


def main() -> None:
    """Writes the store, scrapes it, and prints what the scrapes took."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        newest = write_store(runs)
        size = (newest / "rounds.jsonl").stat().st_size
        print(f"{N_RUNS} runs, {N_ROUNDS} rounds, {N_SITES} sites; {size / 1e6:.0f} MB of rounds in each run")
        follower = Follower(runs)
        start = time.perf_counter()
        follower.catch_up()
        print(f"start, reading the newest run: {time.perf_counter() - start:.2f} s")
        server = start_exporter(RunCollector(follower), Listening(port=PORT))
        try:
            busy = time.process_time()
            times, answer = scrapes(newest)
            busy = (time.process_time() - busy) / N_SCRAPES
        finally:
            server.shutdown()
            server.server_close()
        rare = statistics.quantiles(times, n=20)[-1]
        text = ", ".join(
            f"{name} {1000 * seconds:.0f} ms"
            for name, seconds in (("median", statistics.median(times)), ("95 % within", rare), ("longest", max(times)))
        )
        print(f"{N_SCRAPES} scrapes, a round more before each: {text}; {len(answer.splitlines())} lines each")
        print(f"of a processor, with writing the round and reading the answer: {1000 * busy:.0f} ms each")


def scrapes(run: Path) -> tuple[list[float], str]:
    """Seconds of each scrape, and the last answer."""
    times: list[float] = []
    answer = ""
    for number in range(N_SCRAPES):
        with (run / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(line(N_ROUNDS + number + 1))
        start = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as response:
            answer = response.read().decode()
        times.append(time.perf_counter() - start)
    assert f'outcome="merged"}} {N_ROUNDS + N_SCRAPES:.1f}' in answer
    return times, answer


def write_store(runs: Path) -> Path:
    """The store; returns the newest run's folder, whose file of rounds is its own."""
    shared = runs / "rounds.jsonl"
    with shared.open("w", encoding="utf-8") as file:
        file.writelines(line(number + 1) for number in range(N_ROUNDS))
    newest = runs / f"run-{N_RUNS - 1:03d}"
    for number in range(N_RUNS):
        run = runs / f"run-{number:03d}"
        run.mkdir()
        settings = Settings(run=run.name).model_dump(by_alias=True)
        status = {"round": N_ROUNDS, "phase": "train", "started": 1e9 + number, "joined": names()}
        (run / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (run / "status.json").write_text(json.dumps(status), encoding="utf-8")
        os.link(shared, run / "rounds.jsonl")
    (newest / "rounds.jsonl").unlink()
    (newest / "rounds.jsonl").write_bytes(shared.read_bytes())
    return newest


def names() -> list[str]:
    """The sites'."""
    return [f"site-{number:02d}" for number in range(N_SITES)]


def line(number: int) -> str:
    """A round's record, with full-length numbers."""
    draw = random.Random(number).random
    lambdas = [point / 24 for point in range(25)]

    def path() -> PathRecord:
        return PathRecord(
            lambdas=lambdas, losses=[draw() for _ in lambdas], accuracies=[draw() for _ in lambdas], barrier=draw()
        )

    sites = names()
    moved = {f"layer{group}.conv": draw() for group in range(N_GROUPS)}
    record = RoundRecord(
        round=number,
        outcome="merged",
        reference="global",
        weights={site: 100 + draw() for site in sites[1:]},
        refused=[RefusedRecord(site=sites[0], reason="LATE", detail="silent")],
        matchings={
            site: MatchingRecord(objective=draw(), gain=draw(), sweeps=5, converged=True, moved=moved, seconds=draw())
            for site in sites
        },
        merged=Score(accuracy=draw(), loss=draw(), count=10000),
        own={site: Score(accuracy=draw(), loss=draw(), count=200) for site in sites},
        guard={site: GuardRecord(decision="aligned", gain=1, naive_loss=draw(), aligned_loss=draw()) for site in sites},
        paths={site: SitePaths(naive=path(), aligned=path()) for site in sites},
        barrier=BarrierRecord(naive=draw(), aligned=draw(), definition=DEFINITION),
        traffic={site: TrafficRecord(sent=10**8, received=10**7) for site in sites},
        seconds={phase: 10 * draw() for phase in ("join", "train", "merge", "probe", "recalibrate", "evaluate")},
        variance={f"layer{group}.bn": draw() for group in range(N_GROUPS)},
        finished=1e9 + number,
    )
    return json.dumps(record.model_dump()) + "\n"


if __name__ == "__main__":
    main()
