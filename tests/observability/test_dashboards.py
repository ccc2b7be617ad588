"""The dashboards keep the rules of Grafana's dashboard linter, ask for what is there, and are those of the code."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboards.build import dashboards
from server.live import STATES
from server.metrics import CATALOGUE, FEDERATION
from tests.observability.test_rules import ALERTS, RECORDING, ROOT, known_metrics, named_metrics, promtool, rules

GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
# Of the units that Grafana knows, those that a panel of ours may have.
UNITS = {"none", "s", "bytes", "Bps", "percentunit", "bool_yes_no"}
# What Grafana puts for its variables.
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".+", "$instance": ".+", "$federation": "federation"}
SELECTOR = r"\b(?:fedrebasin_[a-z_]+|up)(?:\{([^}]*)\})?"

Board = dict[str, Any]
BOARDS: list[Board] = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
TITLED: list[Board] = [panel for board in BOARDS for panel in board["panels"]]
PANELS: list[Board] = [panel for panel in TITLED if panel["type"] not in ("row", "alertlist")]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
every_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
every_query = pytest.mark.parametrize("query", sorted(set(QUERIES)), ids=lambda query: query[:60])


def substituted(query: str) -> str:
    """``query`` as Grafana would send it with everything selected."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def template(board: Board, name: str) -> Board:
    """The board's variable of that name."""
    (found,) = [each for each in board["templating"]["list"] if each["name"] == name]
    return found


def test_what_is_checked_in_is_what_the_code_makes() -> None:
    made = dashboards()
    assert {str(path.relative_to(ROOT)) for path in FILES} == set(made)
    assert all((ROOT / path).read_text(encoding="utf-8") == text for path, text in made.items())


@every_board
def test_template_datasource_rule(board: Board) -> None:
    source = template(board, "datasource")
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")


@every_board
@pytest.mark.parametrize("name", ["job", "instance", "federation"])
def test_template_job_and_instance_rules(board: Board, name: str) -> None:
    variable = template(board, name)
    assert (variable["type"], variable["label"]) == ("query", name.title())
    assert variable["datasource"]["uid"] == "${datasource}"
    # One federation at a time: what is summed, and a site's name, belong to one.
    several = name != "federation"
    assert (variable["multi"], variable["includeAll"]) == (several, several)
    assert variable.get("allValue") == (".+" if several else None)
    # template-label-promql-rule and template-on-time-change-reload-rule
    assert re.fullmatch(r"label_values\(fedrebasin_[a-z_]+(\{.*\})?, [a-z]+\)", variable["query"])
    assert named_metrics(variable["query"]) <= known_metrics()
    assert variable["refresh"] == 2


@every_board
def test_uneditable_rule(board: Board) -> None:
    assert board["editable"] is False


@every_board
def test_panels_lie_side_by_side(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@every_panel
def test_panel_rules(panel: Board) -> None:
    # panel-title-description-rule, panel-units-rule, panel-datasource-rule, panel-no-targets-rule
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@every_query
def test_target_rules(query: str) -> None:
    # target-job-rule and target-instance-rule
    selectors = re.findall(SELECTOR, query)
    assert selectors
    for matchers in selectors:
        assert 'job=~"$job"' in matchers
        assert 'instance=~"$instance"' in matchers
    # target-counter-agg-rule, target-rate-interval-rule, and the like for histograms
    for found in re.finditer(r"fedrebasin_[a-z_]+_(?:total|bucket|sum|count)\{", query):
        assert query[: found.start()].endswith(("rate(", "increase("))
    assert set(re.findall(r"rate\([^\[]*\[([^\]]*)\]", query)) <= {"$__rate_interval"}
    assert set(re.findall(r"\[([^\]]*)\]", query)) <= {"$__rate_interval", "$__range"}
    assert "_bucket" not in query or query.startswith("histogram_quantile(")
    # The trap: on (…) drops the other labels.
    assert not re.search(r"\bon ?\(", query)
    assert named_metrics(query) <= known_metrics()


FEDERATED = {name for metric in CATALOGUE if FEDERATION in metric.labels for name in (metric.name, metric.family)}


@every_query
def test_a_query_asks_for_one_federation(query: str) -> None:
    for found in re.finditer(r"(fedrebasin_[a-z_]+)\{([^}]*)\}", query):
        name = re.sub(r"_(bucket|sum|count)$", "", found[1])
        assert ('federation="$federation"' in found[2]) == (name in FEDERATED), found[0]


def panel_of(title: str) -> Board:
    """The panel of that title."""
    (found,) = [panel for panel in TITLED if panel["title"] == title]
    return found


def test_a_state_has_its_word_and_one_that_needs_somebody_is_red() -> None:
    panel = panel_of("Run")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    (expression,) = [target["expr"] for target in panel["targets"]]
    assert {
        found[1]: shown["text"]
        for found in re.finditer(r'state="([a-z]+)"\} \* (\d)', expression)
        for shown in [mapping["options"][found[2]]]
    } == {state: state for state in STATES}
    colours = {shown["text"]: shown["color"] for shown in mapping["options"].values()}
    assert (colours["failed"], colours["dead"], colours["finished"]) == ("red", "red", "green")


def test_a_merge_that_is_just_as_good_is_not_green_and_one_that_is_not_known_says_so() -> None:
    defaults = panel_of("Merged over best site")["fieldConfig"]["defaults"]
    steps = [(step["value"], step["color"]) for step in defaults["thresholds"]["steps"]]
    shown = {value: [colour for at, colour in steps if at is None or value >= at][-1] for value in (-0.001, 0.0, 0.001)}
    assert shown == {-0.001: "red", 0.0: "orange", 0.001: "green"}
    assert defaults["noValue"] == "unknown"


def test_alerts_are_on_the_first_screen() -> None:
    panel = panel_of("Alerts")
    assert panel["type"] == "alertlist"
    assert panel["options"]["stateFilter"]["firing"]
    assert (panel["gridPos"]["y"] + panel["gridPos"]["h"]) * 38 < 900
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["jsonData"]["manageAlerts"]


@every_panel
def test_a_barrier_has_its_unit_in_the_title(panel: Board) -> None:
    if panel["type"] != "table" and any("loss_barrier" in target["expr"] for target in panel["targets"]):
        assert "nats" in panel["title"]


@pytest.mark.parametrize("page", ["runbook.md", "observing.md"])
def test_a_panel_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = {" ".join(found.split()) for found in re.findall(r"(?<![*\w])\*([A-Z][^*→.]+)\*(?!\*)", text)}
    assert len(named) > 2
    assert named <= {panel["title"] for panel in TITLED}


def test_target_promql_rule(tmp_path: Path) -> None:
    made = [{"record": f"panel:query:number{n}", "expr": substituted(query)} for n, query in enumerate(QUERIES)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}), encoding="utf-8")
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stderr + done.stdout


def test_every_metric_and_every_recorded_series_is_looked_at_somewhere() -> None:
    recorded = {str(rule["record"]) for rule in rules(RECORDING)}
    looked_at = {name for query in QUERIES for name in named_metrics(query)}
    looked_at |= {name for rule in rules(ALERTS) for name in named_metrics(rule["expr"])}
    assert recorded <= looked_at
    looked_at |= {name for rule in rules(RECORDING) for name in named_metrics(rule["expr"])}
    looked_at |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in looked_at}
    assert {metric.name for metric in CATALOGUE} - looked_at == set()


def test_an_operator_reads_from_top_to_bottom() -> None:
    (federation,) = [board for board in BOARDS if board["uid"] == "fedrebasin-federation"]
    questions = [panel["title"] for panel in federation["panels"] if panel["type"] == "row"]
    assert questions == [
        *("Is it up, and where does it stand?", "Are the sites with us?", "Did the merge help?"),
        *("Where did the time go?", "Is alignment doing anything?", "Does variance collapse?", "What does it cost?"),
        *("Each site", "What is being run"),
    ]
    # Whether the last merge helped is on the first screen: a row of the grid is 38 pixels high.
    (helped,) = [panel for panel in federation["panels"] if panel["title"] == "Merged over best site"]
    assert (helped["gridPos"]["y"] + helped["gridPos"]["h"]) * 38 < 900


def test_what_grafana_is_given_is_fixed_and_cannot_be_changed_on_the_screen() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["uid"] == "fedrebasin-prometheus"
    assert (source["type"], source["editable"]) == ("prometheus", False)
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/fedrebasin.yml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
