"""Every exit code has one meaning, a row in the table and a page that says what to do."""

from pathlib import Path

import pytest

from scripts.exit_codes import OTHERS, exit_codes
from strategies.errors import Reason

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "exit-codes"
CODES = exit_codes()


def test_a_code_means_one_thing() -> None:
    assert {code: [each.__name__ for each in classes] for code, classes in CODES.items() if len(classes) > 1} == {}
    assert not set(CODES) & set(OTHERS)


def test_there_is_a_page_for_each_code_and_no_other() -> None:
    assert sorted(int(path.stem) for path in FOLDER.glob("*.md") if path.stem != "README") == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_says_what_happened_why_and_what_to_do(code: int) -> None:
    text = (FOLDER / f"{code}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {code}: ")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        *("## What happened", "## Usual causes", "## What to do")
    ]
    assert text.count("\n- ") >= 2


def test_the_table_has_them_all_and_every_reason() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"| [{code}]({code}.md) |" in table for code in CODES)
    assert all(f"| {code} |" in table for code in OTHERS)
    assert all(f"| `{reason.name}` | {reason.words} | {reason.advice} |" in table for reason in Reason)


def test_a_reason_says_what_to_do() -> None:
    assert all(len(reason.advice) > 20 for reason in Reason)
    assert len({reason.words for reason in Reason}) == len(Reason)
