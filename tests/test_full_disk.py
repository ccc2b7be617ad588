"""A full disk: an error that names file and fix, and nothing lost."""

import errno
import os
from pathlib import Path

import pytest
import torch

from server.summary import read_rounds
from strategies.files import DiskError, append_line, write_text
from strategies.spool import Spool
from strategies.tensor_files import read_tensors, write_tensors
from tests.inprocess import play_in_process, quick_settings

MEGABYTE = 1_000_000


def test_what_was_written_before_stays_whole(small_disk: Path) -> None:
    path = write_tensors(small_disk / "network.safetensors", {"w": torch.ones(100)})
    with pytest.raises(DiskError, match=r"network.safetensors: No space left on device.*Free some room"):
        write_tensors(path, {"w": torch.ones(2 * MEGABYTE)})
    assert torch.equal(read_tensors(path)["w"], torch.ones(100))
    assert [each.name for each in small_disk.iterdir()] == ["network.safetensors"]
    with pytest.raises(DiskError):
        write_text(small_disk / "text", "x" * 2 * MEGABYTE)
    assert not (small_disk / "text").exists()


def test_half_a_line_is_taken_back(small_disk: Path) -> None:
    path = small_disk / "rounds.jsonl"
    append_line(path, "first")
    with pytest.raises(DiskError):
        append_line(path, "x" * 2 * MEGABYTE)
    assert path.read_text() == "first\n"


def test_a_reply_that_does_not_fit_leaves_no_part(small_disk: Path) -> None:
    with pytest.raises(DiskError):
        Spool(small_disk).add("site", {"w": torch.ones(2 * MEGABYTE)})
    assert list(small_disk.iterdir()) == []


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quick_settings(tmp_path / "full", rounds=3, epochs=1, later_epochs=1, width=16)
    expected = play_in_process(quick_settings(tmp_path / "roomy", rounds=3, epochs=1, later_epochs=1, width=16))
    fsync = os.fsync
    times = 0

    def full(number: int) -> None:
        nonlocal times
        if Path(f"/proc/self/fd/{number}").readlink().name == ".round-0002.safetensors.partial":
            times += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="round-0002"):
        play_in_process(settings)
    monkeypatch.undo()
    store = play_in_process(settings)
    assert times == 1
    assert [store.checkpoint_path(n).read_bytes() for n in (1, 2, 3)] == [
        expected.checkpoint_path(n).read_bytes() for n in (1, 2, 3)
    ]
    assert len(read_rounds(store)) == 3
