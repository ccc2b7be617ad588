"""What a run is doing at this moment: ``status.json``, renewed with every phase and every reply."""

import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

STARTING, FINISHED = "starting", "finished"
ENDS = (FINISHED, "failed")
# A run that says that it goes on, and that no process plays, is dead.
STATES = ("active", *ENDS, "dead")


class Status(BaseModel, frozen=True):
    """``status.json``. Times are seconds since 1970.

    started         when the run began; ``since`` when the phase did; ``updated`` when anything was last heard
    joined          the sites that are there
    asked, replied  of the question under way: who was asked, and who has answered by now
    deadline        until when answers, or sites to join, are waited for
    refused         of this round's replies, to any question: the last reason by site
    resident_bytes  the memory of the ServerApp
    reason          why the run failed
    """

    model_config = ConfigDict(populate_by_name=True)

    round: int = 0
    rounds: int = 0
    phase: str = STARTING
    started: float = 0.0
    since: float = 0.0
    updated: float = 0.0
    deadline: float | None = None
    joined: list[str] = Field(default_factory=list[str])
    asked: list[str] = Field(default_factory=list[str])
    replied: list[str] = Field(default_factory=list[str])
    refused: dict[str, str] = Field(default_factory=dict[str, str])
    resident_bytes: int = 0
    reason: str = ""
    exit_code: int = Field(default=0, alias="exit-code")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDS


def waiting_for(asked: Iterable[str], seconds: float) -> dict[str, object]:
    """What to tell when sites have been asked and have ``seconds`` to answer."""
    return {"asked": sorted(asked), "replied": [], "deadline": time.time() + seconds}


def failure(reason: str, exit_code: int) -> dict[str, object]:
    """What to tell when the run ends early."""
    return {"phase": "failed", "reason": reason, "exit-code": exit_code, "deadline": None}


def resident_bytes() -> int:
    """The memory that this process occupies; where the system does not tell, the most that it ever did."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever occupied."""
    # In kilobytes on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
