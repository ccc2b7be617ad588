"""From the tables of panels to Grafana's JSON, with Grafana's own builders."""

import json
from collections.abc import Callable
from string import ascii_uppercase

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from scripts.dashboards import alignment, federation
from scripts.dashboards.panels import Board, Kind, Panel, Query, Section
from server import metrics as m

SOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
BOARDS = (federation.BOARD, alignment.BOARD)
Builder = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel | dashboard.Panel


def dashboards() -> dict[str, str]:
    """The dashboards' JSON, by path in the repository."""
    return {f"deploy/grafana/dashboards/{board.uid.removeprefix('fedrebasin-')}.json": _text(board) for board in BOARDS}


def _text(board: Board) -> str:
    return json.dumps(_build(board), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _build(board: Board) -> d.Dashboard:
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["fedrebasin"])
        .readonly()
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("fedrebasin")
            .type(d.DashboardLinkType.DASHBOARDS)
            .tags(["fedrebasin"])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_all(_variable("job", "Job", f"label_values({m.BUILD.name}, job)")))
        .with_variable(
            _all(_variable("instance", "Instance", f'label_values({m.BUILD.name}{{job=~"$job"}}, instance)'))
        )
        .with_variable(
            _variable(
                "federation",
                "Federation",
                f'label_values({m.RUN.name}{{job=~"$job", instance=~"$instance"}}, federation)',
            )
            # One at a time: sites of two federations may have the same name, and what is summed belongs to one.
            .multi(False)
            .include_all(False)
        )
    )
    number = 0
    for section in board.sections:
        builder = builder.with_row(dashboard.Row(section.title).id(number := number + 1))
        for panel in section.panels:
            builder = builder.with_panel(_panel(panel).id(number := number + 1))
    return builder.build()


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        # With the time range: else a site or a server that came later would be missing.
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
    )


def _all(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """The variable with several values, at first all."""
    everything = d.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).all_value(".+").current(everything)


def _panel(panel: Panel) -> Builder:
    makers: dict[Kind, Callable[[Panel], Builder]] = {
        "stat": _stat,
        "timeseries": _timeseries,
        "bargauge": _bargauge,
        "table": _table,
        "alertlist": _alertlist,
    }
    builder = makers[panel.kind](panel)
    steps = [d.Threshold(value=value, color=colour) for value, colour in panel.steps]
    builder = (
        builder.title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .thresholds(dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(steps))
    )
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        builder = builder.with_target(_target(query, letter, panel.kind))
    return builder if panel.decimals is None else builder.decimals(panel.decimals)


def _target(query: Query, letter: str, kind: Kind) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    if kind == "timeseries":
        return target.range()
    return target.instant().format(PromQueryFormat.TABLE if kind == "table" else PromQueryFormat.TIME_SERIES)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _stat(panel: Panel) -> stat.Panel:
    made = stat.Panel().reduce_options(_last()).graph_mode(c.BigValueGraphMode.NONE)
    if panel.texts:
        shown = {str(value): d.ValueMappingResult(text=text, color=colour) for value, text, colour in panel.texts}
        made = made.mappings([d.ValueMap(options=shown)])
    if panel.empty:
        made = made.no_value(panel.empty)
    if panel.names_only:
        return made.text_mode(c.BigValueTextMode.NAME)
    several = len(panel.queries) > 1 or any("{{" in query.legend for query in panel.queries)
    return made.text_mode(c.BigValueTextMode.VALUE_AND_NAME if several else c.BigValueTextMode.VALUE)


def _bargauge(panel: Panel) -> bargauge.Panel:
    made = bargauge.Panel().reduce_options(_last()).orientation(c.VizOrientation.HORIZONTAL)
    return made.display_mode(c.BarGaugeDisplayMode.BASIC).min(0)


def _alertlist(panel: Panel) -> dashboard.Panel:
    """Of Prometheus' rules, as Grafana reads them from its data sources; its own builders have no such panel."""
    states = {"firing": True, "pending": True, "noData": False, "normal": False, "error": True}
    shown = {"viewMode": "list", "groupMode": "default", "maxItems": 20, "sortOrder": 3, "stateFilter": states}
    return dashboard.Panel().type("alertlist").options(shown)


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(c.LegendDisplayMode.LIST).placement(c.LegendPlacement.BOTTOM)
    made = timeseries.Panel().legend(legend.show_legend(True)).line_interpolation(c.LineInterpolation.STEP_AFTER)
    made = made.color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    # The two stages have one colour each, here as in the report.
    for stage, colour in (("naive", "orange"), ("aligned", "blue")):
        fixed = d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        made = made.override_by_name(stage, [fixed])
    return made.show_points(c.VisibilityMode.NEVER).fill_opacity(0)


def _table(panel: Panel) -> table.Panel:
    names = {f"Value #{letter}": query.legend for letter, query in zip(ascii_uppercase, panel.queries, strict=False)}
    order = {name: place for place, name in enumerate([panel.key, *names])}
    made = (
        table.Panel()
        .with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            d.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": order},
            )
        )
    )
    for column, unit in panel.units:
        made = made.override_by_name(column, [d.DynamicConfigValue(id_val="unit", value=unit)])
    return made


__all__ = ["BOARDS", "Section", "dashboards"]
