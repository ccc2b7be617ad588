"""The catalogue of metrics keeps Prometheus' conventions; the exporter serves what is in it and nothing else."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.exporter import RunCollector
from server.follow import Follower
from server.metrics import CATALOGUE, Metric, metrics_table
from tests.stores import COMPLETE, write_run

UNITS = ("seconds", "timestamp_seconds", "bytes", "ratio", "nats")
# promtool does not know our units, and names no metric that lacks one.
FOREIGN_UNITS = r"_(milliseconds|ms|minutes|hours|kilobytes|megabytes|mb|percent|percentage|count|bits)(_total)?$"
each = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


@each
def test_a_name_is_prefix_words_unit_and_suffix(metric: Metric) -> None:
    assert re.fullmatch(r"fedrebasin(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    stem = metric.name.removesuffix("_total")
    assert not metric.unit or stem.endswith(f"_{metric.unit}")
    # What ends like a unit is one.
    assert metric.unit or not stem.endswith(tuple(f"_{unit}" for unit in UNITS))
    assert not re.search(FOREIGN_UNITS, metric.name)
    assert "_timestamp" not in metric.short


@each
def test_labels_are_few_and_grow_with_neither_rounds_nor_runs(metric: Metric) -> None:
    assert not set(metric.labels) & {"round", "run", "run_id", "round_number", "le", "job", "instance"}
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in metric.labels)
    assert len(set(metric.labels)) == len(metric.labels)
    # More than two labels beside the federation are text.
    assert len(metric.labels) <= 3 or metric.kind == "info"


@each
def test_help_is_a_sentence_on_one_line(metric: Metric) -> None:
    assert re.fullmatch(r"[^\n|]+\.|[^\n|]+: [^\n|]+\.", metric.help)
    assert len(metric.help) < 130


def test_no_two_rows_have_one_name() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE) > 35


def test_the_table_has_a_row_for_each() -> None:
    assert len(metrics_table().splitlines()) == len(CATALOGUE) + 2


def test_what_is_served_is_just_what_is_in_the_catalogue(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [COMPLETE])
    registry = CollectorRegistry()
    registry.register(RunCollector(Follower(tmp_path)))
    served = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    wanted = {metric.name.removesuffix("_total"): metric for metric in CATALOGUE}
    # No certificate lies there, and a finished run waits for no reply.
    assert set(wanted) - set(served) == {
        "fedrebasin_certificate_expiry_timestamp_seconds",
        "fedrebasin_phase_deadline_timestamp_seconds",
    }
    assert set(served) <= set(wanted)
    for name, family in served.items():
        assert family.documentation == wanted[name].help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(wanted[name].labels)
