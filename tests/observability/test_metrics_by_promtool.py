"""What the exporter serves, judged by Prometheus' own tool."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from server.exporter import RunCollector
from server.follow import Follower
from tests.certificates import Authority
from tests.observability.test_rules import promtool
from tests.stores import COMPLETE, VOID, write_run


def test_promtool_finds_nothing_wrong_with_any_metric(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [COMPLETE, VOID], {"phase": "train", "deadline": 1_700_000_500.0})
    certificate = Authority("ours").issue(tmp_path / "site-us", "site-us").certificate
    registry = CollectorRegistry()
    registry.register(RunCollector(Follower(tmp_path), (certificate,)))
    text = generate_latest(registry).decode()
    assert "fedrebasin_certificate_expiry_timestamp_seconds" in text
    done = promtool("check", "metrics", text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_would_find_a_counter_without_total() -> None:
    text = "# HELP fedrebasin_rounds Finished rounds.\n# TYPE fedrebasin_rounds counter\nfedrebasin_rounds 1\n"
    assert promtool("check", "metrics", text=text).returncode != 0
