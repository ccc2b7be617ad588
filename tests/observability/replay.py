"""A recorded run, replayed: the files of a run store grow as they did, faster, and as if it were happening now."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from strategies.files import write_text

RECORDED = Path(__file__).resolve().parent / "recorded"
# Waiting that is cut short: nothing happens in it.
LONGEST_PAUSE_SECONDS = 20.0
Event = tuple[float, str, dict[str, Any]]
TIMES = ("started", "since", "updated", "deadline", "finished")


@dataclass(frozen=True)
class Replay:
    """What will be written, each with when: seconds after the start."""

    run: Path
    events: list[Event]

    def play(self, now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep) -> None:
        """Writes it all, in its time. Records come in two halves, so that a reader meets half-written lines."""
        start = now()
        for at, name, record in self.events:
            sleep(max(0.0, start + at - now()))
            stamped = record | {key: start + record[key] for key in TIMES if record.get(key) is not None}
            if name == "status.json":
                write_text(self.run / name, json.dumps(stamped))
                continue
            text = json.dumps(stamped) + "\n"
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                with (self.run / name).open("a", encoding="utf-8") as file:
                    file.write(half)
                sleep(0.2)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.events[-1][0]


def replay(folder: Path, seconds: float, recorded: Path = RECORDED) -> Replay:
    """The recorded run, to be written to ``folder`` within ``seconds``. Its settings are there at once."""
    folder.mkdir(parents=True)
    settings = json.loads((recorded / "settings.json").read_text(encoding="utf-8"))
    (folder / "settings.json").write_text(json.dumps(settings | {"run": folder.name}), encoding="utf-8")
    found = [(record["updated"], "status.json", record) for record in _lines(recorded / "status.jsonl")]
    found += [(record["finished"], "rounds.jsonl", record) for record in _lines(recorded / "rounds.jsonl")]
    found.sort(key=lambda event: event[0])
    ours = _compressed([at for at, _, _ in found], seconds)
    events = [(ours(at), name, _moved(record, ours)) for at, name, record in found]
    return Replay(folder, events)


def _compressed(times: list[float], seconds: float) -> Callable[[float], float]:
    """From recorded time to seconds after the start: long pauses shortened, all of it scaled to ``seconds``."""
    places = [0.0]
    for before, after in pairwise(times):
        places.append(places[-1] + min(after - before, LONGEST_PAUSE_SECONDS))
    scale = seconds / places[-1]

    def ours(at: float) -> float:
        last = max((number for number, each in enumerate(times) if each <= at), default=0)
        return (places[last] + min(max(0.0, at - times[last]), LONGEST_PAUSE_SECONDS)) * scale

    return ours


def _moved(record: dict[str, Any], ours: Callable[[float], float]) -> dict[str, Any]:
    return record | {key: ours(record[key]) for key in TIMES if record.get(key) is not None}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
