"""Seconds and peak memory of one call."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Result = TypeVar("Result")

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 4 << 20
"""Larger allocations go back to the system when freed; else the peak would count glibc's holes of earlier calls."""


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """What a call returned, and what it cost: by the clock, of all processors, and at the resident set's peak."""

    result: Result
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(call: Callable[[], Result]) -> Measured[Result]:
    """``call`` measured once. Linux only: the kernel's high-water mark is reset before the call."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Measured(result, seconds, cpu_seconds, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
