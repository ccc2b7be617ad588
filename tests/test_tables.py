"""Tables for people: what a narrow terminal does to them."""

import pytest

from cli import output

FINGERPRINT = "SHA256:Ve7NbSFEVKgNpCvDvDpE13+a4VQqzSf+hi5P9qvBi6c"


def test_a_narrow_terminal_cuts_nothing_off_a_word_that_is_longer_than_its_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output.print_table("sites", ("site", "status", "key"), [("st-marys", "enrolled", FINGERPRINT)], ("status", "key"))
    shown = capsys.readouterr().out
    cells = [line.split("│")[3].strip() for line in shown.splitlines() if line.startswith("│")]
    assert "".join(cells) == FINGERPRINT
