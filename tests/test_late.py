"""Commands that are imported when they are called look and answer as if they had been there all along."""

import pytest
from typer.testing import CliRunner

from cli.late import Late
from cli.main import app, main
from tests.commands import every_command, run

Capsys = pytest.CaptureFixture[str]


def late() -> list[Late]:
    """Every such command."""
    return [command for command in every_command() if isinstance(command, Late)]


def test_each_is_there_and_says_of_itself_what_its_group_says() -> None:
    assert len(late()) == 11
    for each in late():
        assert each.imported.help == each.help
        assert each.help


def test_a_group_shows_them_without_importing_any(capsys: Capsys) -> None:
    ran = run(capsys, "server", "--help")
    assert ran.code == 0
    for name in ("approve", "run", "simulate", "rehearse"):
        assert name in ran.out


def test_what_an_argument_is_stands_in_the_help(capsys: Capsys) -> None:
    for command, told in (("approve", "The request that a site sent."), ("revoke", "The site.")):
        assert told in run(capsys, "server", command, "--help").out
    assert "TOML: the run's settings" in " ".join(run(capsys, "server", "run", "--help").out.split())


def test_options_arguments_and_help_are_the_commands_own(capsys: Capsys) -> None:
    ran = run(capsys, "merge", "--help")
    assert ran.code == 0
    assert "--layers" in ran.out
    # Without arguments, too.
    assert "--layers" in run(capsys, "merge").out
    ran = run(capsys, "settings", "--nothing")
    assert ran.code == 2
    # Before it stands the program, which in a test is not always called so.
    assert "fedrebasin settings [OPTIONS]" in ran.err


@pytest.mark.parametrize(
    ("asked", "meant"), [(["mergee"], "merge"), (["server", "aprove"], "approve"), (["site", "chek"], "check")]
)
def test_a_misspelt_one_is_told_once_what_was_meant(asked: list[str], meant: str) -> None:
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 2
    assert ran.stderr.count(f"Did you mean {meant!r}?") == 1


def test_an_error_that_nobody_foresaw_is_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fedrebasin", "settings"])
    monkeypatch.setattr("cli.settings.parse_settings", _fail)
    with pytest.raises(ZeroDivisionError):
        main()


def _fail(config: object) -> None:
    raise ZeroDivisionError(config)
