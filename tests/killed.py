"""A run in a process of its own that is killed, as by ``kill -9``, at a chosen moment."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any, cast

import torch

from server import store as store_module
from server.store import RunStore
from strategies import tensor_files
from strategies.settings import Settings, parse_settings
from tests.inprocess import play_in_process

N_SITES = 3
# Moments that are no phase: the network is written and not yet in its place; it is, and half of its line is written.
BEFORE_RENAME, HALF_A_LINE = "before rename", "half a line"


def play_until_killed(settings: Settings, round_number: int, moment: str) -> int:
    """Plays in a new process until ``moment`` (a phase, or one of those above) of a round; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    # Children are forked from a process that has imported all of it and computed nothing.
    context.set_forkserver_preload(["tests.killed", "client.app"])
    process = context.Process(target=_play, args=(settings.model_dump(by_alias=True), round_number, moment))
    process.start()
    process.join(timeout=300)
    return process.exitcode or 0


def _play(config: dict[str, object], round_number: int, moment: str) -> None:
    torch.set_num_threads(1)
    if moment == BEFORE_RENAME:
        _kill_before_rename(round_number)
    elif moment == HALF_A_LINE:
        _kill_in_line(round_number)
    else:
        _kill_in_phase(round_number, moment)
    play_in_process(parse_settings(config), N_SITES)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_in_phase(round_number: int, phase: str) -> None:
    tell = RunStore.status

    def status(self: RunStore, *said: object, **more: object) -> None:
        cast(Any, tell)(self, *said, **more)
        if said[:2] == (round_number, phase):
            _die()

    cast(Any, RunStore).status = status


def _kill_before_rename(round_number: int) -> None:
    settle = tensor_files.settle

    def dying(partial: Path, path: Path) -> Path:
        if path.name == f"round-{round_number:04d}.safetensors":
            _die()
        return settle(partial, path)

    tensor_files.settle = dying


def _kill_in_line(round_number: int) -> None:
    def half(path: Path, line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line[: len(line) // 2] if f'"round": {round_number},' in line else line + "\n")
        if f'"round": {round_number},' in line:
            _die()

    store_module.append_line = half
