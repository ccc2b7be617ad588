"""An interrupted demo ends with all that it started, whatever that turned into."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cli import processes
from cli.processes import processes_of
from tests.demos import begun, finish, processes_naming, start_demo
from tests.waiting import wait_until

pytestmark = pytest.mark.long


@pytest.mark.parametrize("signs", [[signal.SIGINT] * 3, [signal.SIGTERM]], ids=["Ctrl-C thrice", "SIGTERM"])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, signs: list[signal.Signals]) -> None:
    process = start_demo(runs=tmp_path)
    begun(process, tmp_path)
    for sign in signs:
        process.send_signal(sign)
        time.sleep(0.3)  # impatience, not waiting: the next one falls into the ending of the one before
    _, err = finish(process)
    assert process.returncode == 130
    assert "interrupted; nothing is left running" in err
    status = json.loads((tmp_path / "test" / "status.json").read_text())
    assert (status["phase"], status["reason"], status["exit-code"]) == ("failed", "interrupted", 130)
    wait_until(lambda: processes_naming(str(tmp_path)) == [], 30, "nothing is left", every=0.1)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_an_interrupt_while_the_command_starts_shows_no_traceback(tmp_path: Path, seconds: float) -> None:
    process = start_demo(runs=tmp_path)
    time.sleep(seconds)  # into the imports, which take some seconds
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert "Traceback" not in err
    wait_until(lambda: processes_naming(str(tmp_path)) == [], 30, "nothing is left", every=0.1)


def test_the_processes_of_a_home_are_found_wherever_they_went(tmp_path: Path) -> None:
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment)
    try:
        # For an instant after exec, Linux shows a process without its environment.
        wait_until(lambda: processes_of(tmp_path) == [child.pid], 30, "the child is told", every=0.1)
        assert processes_of(tmp_path.parent) == []
    finally:
        child.kill()
        child.wait()
    assert processes_of(tmp_path) == []


def test_what_shows_no_environment_while_it_starts_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux shows a process without its environment while it turns into another program, which is seen by luck only."""
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment)
    ended = subprocess.Popen(["true"])
    ended.wait()
    looks: list[Path] = []

    def unseen_twice(home: Path) -> list[int]:
        looks.append(home)
        return [] if len(looks) <= 2 else processes_of(home)

    monkeypatch.setattr(processes, "processes_of", unseen_twice)
    try:
        assert processes.end_all(ended, tmp_path) == []
        assert child.poll() == -signal.SIGTERM
    finally:
        child.kill()
        child.wait()


def test_what_hides_its_environment_is_known_by_its_session(tmp_path: Path) -> None:
    """As Ray's agents do, which write their title over it; one that heeds no SIGTERM outlives all that were known."""
    script = "trap '' TERM; env -i sleep 60 & echo $!; exec sleep 60"
    known = subprocess.Popen(
        ["sh", "-c", script],
        start_new_session=True,
        env=os.environ | {"FLWR_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert known.stdout is not None
    hidden = int(known.stdout.readline())
    wait_until(lambda: processes_of(tmp_path) == [known.pid], 30, "one of the two is known", every=0.1)
    try:
        assert processes.end_all(known, tmp_path) == []
        assert not Path(f"/proc/{hidden}").exists() or "Z" in Path(f"/proc/{hidden}/stat").read_text().split()
    finally:
        for number in (known.pid, hidden):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        known.wait()
        known.stdout.close()
