"""The page on what merges are worth says what the records of the runs say."""

from pathlib import Path

import pytest

from benchmarks.merging.images import CACHE
from benchmarks.merging.quality import RECORDS
from benchmarks.merging.runs import all_kept
from benchmarks.merging.tables import show
from benchmarks.merging.tasks import tasks

PAGE = Path(__file__).parent.parent / "docs" / "merge-quality.md"


@pytest.mark.parametrize("part", ["digits-w16", "digits-w32", "cifar10"])
def test_every_row_of_the_tables_stands_in_the_page(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE, str(RECORDS))
    show(all_kept(tasks(3, [part])))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in page] == []
