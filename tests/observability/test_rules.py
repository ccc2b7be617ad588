"""Prometheus' configuration, rules and alerts, judged by Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.metrics import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS, RECORDING = PROMETHEUS / "rules" / "alerts.yml", PROMETHEUS / "rules" / "recording.yml"
CASES = PROMETHEUS / "tests" / "alerts.test.yml"
SYMPTOMS = {
    *("FedrebasinRoundStalled", "FedrebasinQuorumMissed", "FedrebasinReplyRefused", "FedrebasinBarrierNotReduced"),
    *("FedrebasinMergedWorseThanBestSite", "FedrebasinServerAbsent", "FedrebasinRunStoreUnreadable"),
    *("FedrebasinCertificateExpiresSoon", "FedrebasinCertificateExpired"),
}


def rules(path: Path) -> list[dict[str, Any]]:
    """All rules of a file."""
    return [rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def promtool(*arguments: str, folder: Path = PROMETHEUS, text: str = "") -> "subprocess.CompletedProcess[str]":
    """What promtool says, within a minute."""
    command = ["promtool", *arguments]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=180, check=False)


def named_metrics(expression: str) -> set[str]:
    """The names of our metrics, and of recorded series, that an expression holds."""
    return set(re.findall(r"(?<![\w:])(?:[a-z_]+:)?fedrebasin_[a-z_]+(?::[a-z0-9_]+)?", expression))


def known_metrics() -> set[str]:
    """The names that may stand in an expression."""
    histograms = {metric.name for metric in CATALOGUE if metric.kind == "histogram"}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return {metric.name for metric in CATALOGUE} - histograms | parts | {rule["record"] for rule in rules(RECORDING)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "config", "loopback.yml"),
        ("check", "rules", "rules/recording.yml", "rules/alerts.yml"),
    ],
    ids=["config", "on loopback", "rules"],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout


def test_every_case_of_every_alert_comes_out_as_written() -> None:
    done = promtool("test", "rules", str(CASES))
    assert done.returncode == 0, done.stderr + done.stdout


def test_on_loopback_all_is_the_same_but_the_addresses() -> None:
    inner, loopback = (_settings(name) for name in ("prometheus.yml", "loopback.yml"))
    assert loopback == inner.replace("exporter:9464", "127.0.0.1:9464").replace("alertmanager:9093", "127.0.0.1:9093")


def test_the_block_for_alertmanager_is_right_once_it_is_filled_in(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    text = _settings("prometheus.yml")
    start = text.index("# alerting:")
    block, rest = text[start:].split("\n\n", 1)
    filled = text[:start] + block.replace("# ", "") + "\n\n" + rest
    (tmp_path / "prometheus" / "prometheus.yml").write_text(filled, encoding="utf-8")
    assert yaml.safe_load(filled)["alerting"]["alertmanagers"]
    done = promtool("check", "config", "prometheus.yml", folder=tmp_path / "prometheus")
    assert done.returncode == 0, done.stderr + done.stdout


def _settings(name: str) -> str:
    """A configuration less its first line, which says what it is for."""
    return (PROMETHEUS / name).read_text(encoding="utf-8").partition("\n")[2]


def test_there_are_just_the_nine_alerts() -> None:
    assert {rule["alert"] for rule in rules(ALERTS)} == SYMPTOMS


@pytest.mark.parametrize("name", sorted(SYMPTOMS))
def test_an_alert_has_a_section_labels_and_both_cases(name: str) -> None:
    (rule,) = [rule for rule in rules(ALERTS) if rule["alert"] == name]
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert len(runbook.partition(f"\n## {name}\n")[2].partition("\n## ")[0].split()) > 50
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/runbook.md#{name.lower()}"
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    expected = [
        bool(one["exp_alerts"]) for case in cases for one in case["alert_rule_test"] if one["alertname"] == name
    ]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("name", sorted(SYMPTOMS))
@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"], ids=["never fires", "always fires"])
def test_the_cases_tell_an_alert_that_does_not_work(tmp_path: Path, name: str, expression: str) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    broken = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    for rule in broken["groups"][0]["rules"]:
        rule["expr"] = expression if rule["alert"] == name else rule["expr"]
    (tmp_path / "prometheus" / "rules" / "alerts.yml").write_text(yaml.safe_dump(broken), encoding="utf-8")
    done = promtool("test", "rules", "tests/alerts.test.yml", folder=tmp_path / "prometheus")
    assert done.returncode != 0
    assert name in done.stdout + done.stderr


@pytest.mark.parametrize("rule", [*rules(ALERTS), *rules(RECORDING)], ids=lambda rule: rule.get("alert", "record"))
def test_a_rule_names_only_what_is_in_the_catalogue(rule: dict[str, Any]) -> None:
    assert named_metrics(rule["expr"]) <= known_metrics()
    # Neither of the two traps: absent() of a comparison loses its labels, on() drops all others.
    assert not re.search(r"absent\([^)]*[=<>]=? *\d", rule["expr"])
    assert "on (" not in rule["expr"]
    assert "on(" not in rule["expr"]
