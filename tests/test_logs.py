"""What our code says of a run is in its log, with what is told there alone."""

import subprocess
import sys

SAY = "from logging import getLogger; from strategies.logs import show_log; {}getLogger('fedrebasin').info('told')"


def said(before: str) -> str:
    """What a process of its own has on its standard error."""
    command = [sys.executable, "-c", SAY.format(before)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stderr


def test_what_is_told_is_on_standard_error_once_that_was_asked_for() -> None:
    assert said("") == ""
    assert said("show_log(); show_log(); ") == "told\n"
