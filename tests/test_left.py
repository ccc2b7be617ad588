"""The report says what left the sites, kind by kind, why the rest did not, and to whom networks went."""

import re
from pathlib import Path

from server.left import left, told_on
from server.records import RoundRecord, TrafficRecord
from server.report import write_report
from server.store import RunStore
from strategies.settings import parse_settings
from tests.stores import COMPLETE, VOID, write_run

USUAL = parse_settings({})
KINDS = {"site-eu": {"network": 400, "permutation": 100}, "site-us": {"network": 500, "moments": 100}}
COUNTED = COMPLETE.model_copy(
    update={
        "traffic": {
            site: TrafficRecord(sent=1000, received=sum(kinds.values()), kinds=kinds) for site, kinds in KINDS.items()
        }
    }
)


def page(tmp_path: Path, *rounds: RoundRecord, **settings: object) -> str:
    report = write_report(RunStore(write_run(tmp_path / "run", rounds, None, **settings)))
    return re.sub(r"\s+", " ", report.read_text(encoding="utf-8"))


def test_the_bytes_of_a_kind_are_those_of_all_sites_and_rounds() -> None:
    rows = left([COUNTED, COUNTED.model_copy(update={"round": 2})], USUAL)
    assert [(row.words.partition(":")[0], row.n_bytes) for row in rows if row.sent == "yes"] == [
        ("the site's network", 1800),
        ("the permutation of units that the site found", 200),
        ("BatchNorm moments", 200),
    ]


def test_what_was_not_sent_comes_last_with_what_it_would_take() -> None:
    rows = left([COUNTED], USUAL)
    assert [row.sent == "yes" for row in rows] == sorted((row.sent == "yes" for row in rows), reverse=True)
    told = {row.words.partition(":")[0]: row.sent for row in rows}
    assert told["Gram matrices"] == "no: it takes merge = 'least-squares', or variants"
    assert told["class counts as such"] == "no: it takes head = 'counts', baselines or variants"
    assert told["evaluation sums"] == "no"
    assert "what no question asks for" not in told


def test_what_no_setting_but_another_network_would_send_is_told_as_such() -> None:
    without = {site: TrafficRecord(sent=1000, received=400, kinds={"network": 400}) for site in KINDS}
    told = {
        row.words.partition(":")[0]: row.sent for row in left([COUNTED.model_copy(update={"traffic": without})], USUAL)
    }
    assert told["BatchNorm moments"] == "no: it takes a network with BatchNorm"


def test_how_the_network_went_out_stands_beside_it() -> None:
    assert left([COUNTED], USUAL)[0].note == "as it was trained"
    at_site = parse_settings({"align-at": "site", "start": "shared"})
    assert left([COUNTED], at_site)[0].note == "with its units in the reference's order"


def test_of_rounds_that_counted_no_kinds_only_the_settings_tell() -> None:
    rows = left([COMPLETE, COUNTED], USUAL)
    told = {row.words.partition(":")[0]: (row.sent, row.n_bytes) for row in rows}
    assert told["some of these, in rounds whose records do not tell them apart"] == ("yes", 1100)
    assert told["evaluation sums"] == ("not known", 0)
    assert told["Gram matrices"][0].startswith("no: it takes")


def test_without_settings_it_is_not_said_why() -> None:
    assert {row.sent for row in left([COUNTED], None)} == {"yes", "no"}


def test_it_is_told_to_whom_networks_went() -> None:
    private = parse_settings({"align-at": "site", "start": "shared", "probe-points": 0})
    assert list(told_on(3, private)) == ["the merged network of each round"]
    assert "with two sites, each can work out the other's network from the merge" in told_on(2, private)
    ridge = private.model_copy(update={"head": "ridge"})
    assert list(told_on(2, ridge))[1:] == [
        "with two sites, each can work out the other's network but for its last layer from the merge"
    ]
    assert len(list(told_on(2, private.model_copy(update={"merge": "sequential"})))) == 1
    (line,) = (line for line in told_on(3, USUAL) if line.startswith("probe-points"))
    assert line.startswith("probe-points = 25: every site is sent every other site's network, as aligned")


def test_the_page_has_the_bytes_of_each_site_in_each_round(tmp_path: Path) -> None:
    text = page(tmp_path, COUNTED, VOID)
    assert '<td data-name="together">1.1 kB</td>' in text
    assert '<td class="text" data-name="from each site">site-eu 0.5 kB, site-us 0.6 kB</td>' in text
    assert '<td class="text" data-name="from each site">nothing</td>' in text
    assert "<li>probe-points = 25: every site is sent" in text


def test_settings_of_another_version_are_no_reason_to_have_no_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [COUNTED])
    told = (run / "settings.json").read_text(encoding="utf-8")
    (run / "settings.json").write_text(told.replace('"mix": "mean"', '"mix": "soup", "later": 1'), encoding="utf-8")
    text = write_report(RunStore(run)).read_text(encoding="utf-8")
    assert "soup" in text
    assert "it takes" not in text
    assert "sites were sent" not in text
