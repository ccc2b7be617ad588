"""A recorded run, replayed as growing files, by a real exporter to a real Prometheus: every query has an answer."""

import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.ports import free_port
from server.live import STATES
from tests.certificates import Authority
from tests.observability.parts import Prometheus, answers, exporter, prometheus, running
from tests.observability.replay import replay
from tests.observability.test_dashboards import PANELS, VARIABLES
from tests.observability.test_rules import ALERTS, RECORDING, ROOT, rules
from tests.waiting import wait_until

REPLAY_SECONDS = 40
# As Grafana sets it: four times the scrape interval; and the time shown.
HERE = VARIABLES | {"$__rate_interval": "8s", "$__range": "60s"}
TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
# Alerts whose expression has no answer in this run, and why.
SILENT = {
    "FedrebasinRoundStalled": "the run moves, and finishes",
    "FedrebasinServerAbsent": "the exporter is there all the time",
    "FedrebasinRunStoreUnreadable": "and so is the folder of runs",
    "FedrebasinBarrierNotReduced": "alignment took most of every barrier off, and later nothing moved",
}


@dataclass(frozen=True)
class Observed:
    """A Prometheus that has seen the whole run, and when that was."""

    prometheus: Prometheus
    start: float
    end: float

    def over(self, query: str) -> list[dict[str, Any]]:
        """The answer to a range query over the run."""
        for name, value in HERE.items():
            query = query.replace(name, value)
        return self.prometheus.over(query, self.start, self.end)

    def values(self, query: str) -> list[float]:
        """The values of the one series that answers."""
        (series,) = self.over(query)
        return [float(value) for _, value in series["values"]]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Observed]:
    """The run, replayed once for all tests."""
    folder = tmp_path_factory.mktemp("observed")
    for name in ("runs", "certificates"):
        (folder / name).mkdir()
    authority = Authority("ours")
    authority.issue(folder / "certificates" / "site-us", "site-us", days=5)
    authority.issue(folder / "certificates" / "site-eu", "site-eu", days=0)
    with exporter(folder / "runs", folder / "certificates", folder) as port, prometheus(port, folder) as server:
        wait_until(lambda: bool(server.at("fedrebasin_build_info")), 120, "a first scrape")
        start = time.time()
        replay(folder / "runs" / "recorded", REPLAY_SECONDS).play()
        # Two scrapes and two evaluations of rules after the last record.
        finished = 'min_over_time(fedrebasin_run_state{state="finished"}[4s]) == 1'
        wait_until(lambda: bool(server.at(finished)), 120, "two scrapes of the finished run")
        yield Observed(server, start, time.time())


@pytest.mark.parametrize("query", TARGETS)
def test_a_panel_has_data(observed: Observed, query: str) -> None:
    assert observed.over(query), query


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: rule["alert"])
def test_an_alert_can_be_asked_and_has_an_answer_where_one_is_due(observed: Observed, rule: dict[str, Any]) -> None:
    found = observed.over(rule["expr"])
    assert bool(found) == (rule["alert"] not in SILENT), found


@pytest.mark.parametrize("rule", rules(RECORDING), ids=lambda rule: rule["record"])
def test_a_recorded_series_is_there(observed: Observed, rule: dict[str, Any]) -> None:
    assert observed.over(rule["record"])


def test_the_number_of_a_state_is_that_of_the_text_on_the_panel(observed: Observed) -> None:
    (query,) = [target["expr"] for panel in PANELS if panel["title"] == "Run" for target in panel["targets"]]
    values = observed.values(query)
    assert (values[0], values[-1]) == (STATES.index("active") + 1, STATES.index("finished") + 1)


def test_prometheus_starts_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^prometheus .*$", page, re.MULTILINE)
    port = free_port()
    there = {
        "deploy/": f"{ROOT}/deploy/",
        "/tmp/fedrebasin-prometheus": str(tmp_path / "data"),
        "127.0.0.1:9090": f"127.0.0.1:{port}",
    }
    for written, ours in there.items():
        assert line.count(written) == 1
        line = line.replace(written, ours)
    with running(line.split(), tmp_path / "log"):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 120, "Prometheus")
        wait_until(lambda: Prometheus(port).get("targets")["activeTargets"], 120, "a target")
        (target,) = Prometheus(port).get("targets")["activeTargets"]
    assert target["scrapeUrl"] == "http://127.0.0.1:9464/metrics"


def test_no_rule_fails(observed: Observed) -> None:
    found = [rule for group in observed.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in found} == {"ok"}
    assert len(found) == len(rules(ALERTS)) + len(rules(RECORDING))


def test_the_alerts_that_are_due_go_off(observed: Observed) -> None:
    firing = {(each["labels"]["alertname"], each["state"]) for each in observed.prometheus.get("alerts")["alerts"]}
    # Those of longer patience are pending still.
    assert {("FedrebasinQuorumMissed", "firing"), ("FedrebasinReplyRefused", "firing")} <= firing
    assert {("FedrebasinCertificateExpiresSoon", "pending"), ("FedrebasinCertificateExpired", "firing")} <= firing


def test_the_exporter_was_up_all_the_time(observed: Observed) -> None:
    assert set(observed.values('up{job="fedrebasin"}')) == {1.0}


def test_rounds_pass_and_the_screen_moves_within_them(observed: Observed) -> None:
    rounds = observed.values("fedrebasin_current_round")
    assert rounds == sorted(rounds)
    assert len(set(rounds)) > 4
    assert len(set(observed.values('fedrebasin_sites{state="replied"}'))) > 2


def test_no_record_is_lost_or_counted_twice_while_the_file_grows(observed: Observed) -> None:
    counts = {
        series["metric"]["outcome"]: series["values"][-1][1] for series in observed.over("fedrebasin_rounds_total")
    }
    assert counts == {"merged": "6", "void": "1"}
    assert set(observed.values("fedrebasin_unreadable_lines")) == {0.0}


def test_the_dashboard_tells_that_the_merge_helped(observed: Observed) -> None:
    over_best_site = observed.values("federation:fedrebasin_accuracy_ratio:merged_over_best_site")
    # The first merge did not do as well as the best site alone; all rounds are held against that one site.
    assert over_best_site[0] < 0 < over_best_site[-1]
    assert len(set(observed.values('fedrebasin_accuracy_ratio{network="best_site"}'))) == 1
    naive, aligned = (
        observed.values(f'max(fedrebasin_loss_barrier_nats{{stage="{stage}"}})')[0] for stage in ("naive", "aligned")
    )
    assert naive > 4 * aligned
