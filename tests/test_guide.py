"""docs/alignment.md keeps its word: its Python runs, its options exist, its figures are there."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDE = (DOCS / "alignment.md").read_text(encoding="utf-8")


def test_its_python_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["merged"].keys() == names["reference"].keys()
    assert names["matching"].gain > 0
    assert len(names["naive"].losses) == 25


def test_its_figures_are_there_and_load_nothing() -> None:
    figures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", GUIDE)
    assert figures == ["images/symmetry.svg", "images/path.svg", "images/width.svg"]
    for figure in figures:
        picture = (DOCS / figure).read_text(encoding="utf-8")
        assert "<script" not in picture
        assert 'href="http' not in picture


@pytest.mark.parametrize("command", ["inspect", "merge", "barrier"])
def test_the_options_that_it_names_are_those_of_the_commands(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = [line for line in GUIDE.replace("\\\n", " ").splitlines() if line.startswith(f"fedrebasin {command} ")]
    assert lines
    offered = run(capsys, command, "--help").out
    assert all(option in offered for line in lines for option in re.findall(r"--[a-z-]+", line))
