"""``report.html``: a run on one self-contained page, for whoever answers for a site."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from pydantic import ValidationError

from server.chosen import chosen
from server.contributions import MEAN, contributions, refusal
from server.course import course_notes, half_difference
from server.decided import decided
from server.drawing import course_charts, path_charts
from server.left import left, told_on
from server.page import PAGE
from server.records import RoundRecord, Score, SitePaths
from server.scores import network_scores, sites_alone
from server.store import RunStore
from server.summary import ROUND, Summary, better_round, read_rounds, summary_of
from server.wording import sentence
from strategies.names import CORRECTED
from strategies.noise import budget
from strategies.settings import Settings

MOST_FIGURES = 8
# Above the charts.
MOST_ROUNDS = 10


class Row(NamedTuple):
    """A network, and how it does on the union of held-out samples."""

    name: str
    sentence: str
    accuracy: float
    loss: float
    is_merge: bool


def write_report(store: RunStore, seconds: float | None = None, pooled: Score | None = None) -> Path:
    """Writes the page and ``result.json`` from the run store, and returns the page's path."""
    rounds = read_rounds(store)
    summary = summary_of(store, rounds, seconds, pooled)
    merged = [record for record in rounds if record.outcome == "merged"]
    probed = next((record for record in rounds if record.paths), None)
    store.write_json("result.json", summary.model_dump())
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    settings = _known(summary.settings)
    sites = contributions(rounds, str(summary.settings.get("rule", MEAN)))
    corrected = " and with its class frequencies taken out" if _is_corrected(merged) else ""
    environment.filters["score"] = score
    environment.filters["size"] = size
    return store.write_text(
        "report.html",
        environment.from_string(PAGE).render(
            summary=summary,
            rounds=rounds,
            when=_when(rounds),
            networks=list(_networks(summary, merged)),
            merged=merged,
            n_between=len(merged) > MOST_ROUNDS,
            corrected=corrected,
            chosen=chosen(rounds, settings),
            n_refused=sum(len(record.refused) for record in rounds),
            best=better_round(store, rounds),
            last=network_scores(merged[-1], sites_alone(merged)) if merged else {},
            refusal=refusal,
            sites=sites,
            budget=_budget(summary.settings, len(rounds)),
            left=left(rounds, settings),
            told_on=list(told_on(len(sites), settings)) if settings else [],
            course=course_charts(rounds),
            course_notes=course_notes(rounds, bool(corrected)),
            decided=[(record, rows) for record in rounds if (rows := decided(record))],
            figures=[_figure(probed, site, paths) for site, paths in _shown(probed)] if probed else [],
            n_hidden=max(0, len(probed.paths) - MOST_FIGURES) if probed else 0,
        ),
    )


def score(value: float | None) -> str:
    """A loss, a barrier or an accuracy for people."""
    return "–" if value is None else f"{value:.3f}"


def size(n_bytes: int) -> str:
    """Bytes for people: 12.3 MB."""
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def _networks(summary: Summary, merged: list[RoundRecord]) -> Iterator[Row]:
    """All that was measured once, and the rounds; of many, which have a table of their own, the first and the last."""
    ends = {summary.merge, f"{ROUND}{merged[-1].round}" if merged else ""}
    rounds = {f"{ROUND}{record.round}" for record in merged}
    for name, accuracy in summary.accuracy.items():
        if name not in rounds or name in ends or len(merged) <= MOST_ROUNDS:
            merge = f": what round {merged[0].round} merged" if name == summary.merge and name not in rounds else ""
            yield Row(name, sentence(name) + merge, accuracy, summary.loss[name], name in ends)


def _known(told: Mapping[str, object]) -> Settings | None:
    """The run's settings; none where they are not kept, or are of a version that reads them otherwise."""
    ours = {str(field.alias) for field in Settings.model_fields.values()}
    try:
        return Settings.model_validate({key: value for key, value in told.items() if key in ours}) if told else None
    except ValidationError:
        return None


def _is_corrected(merged: list[RoundRecord]) -> bool:
    return bool(merged) and any(site + CORRECTED in merged[0].baselines for site in merged[0].weights)


def _budget(settings: Mapping[str, object], n_rounds: int) -> str:
    """What all rounds gave away together: of a void one too, updates were sent."""
    told = {key: settings[key] for key in ("privacy", "dp-epsilon", "dp-delta") if key in settings}
    return budget(Settings.model_validate(told), n_rounds)


def _when(rounds: list[RoundRecord]) -> str:
    """From the beginning of the first round to the end of the last, in UTC; empty where rounds do not say it."""
    if not rounds or not rounds[0].finished:
        return ""
    began = datetime.fromtimestamp(rounds[0].finished - sum(rounds[0].seconds.values()), UTC)
    ended = datetime.fromtimestamp(rounds[-1].finished, UTC)
    until = f"{ended:%H:%M}" if ended.date() == began.date() else f"{ended:%d %B %Y, %H:%M}"
    return f"{began:%d %B %Y, %H:%M} to {until} UTC"


def _shown(record: RoundRecord) -> list[tuple[str, SitePaths]]:
    return list(record.paths.items())[:MOST_FIGURES]


def _figure(record: RoundRecord, site: str, paths: SitePaths) -> dict[str, object]:
    naive = "not known" if paths.naive is None else f"{paths.naive.barrier:.3f}"
    half = half_difference(paths.aligned)
    ends = f"; half the difference between the ends, below which no barrier lies, {half:.3f}" if isfinite(half) else ""
    return {
        "title": f"Round {record.round}: from {record.reference} (λ = 0) to {site} (λ = 1)",
        "caption": f"Barrier naive {naive}, aligned {paths.aligned.barrier:.3f} nats{ends}. "
        "BatchNorm statistics, if there are any, are recomputed on all sites at every λ, the ends included.",
        "charts": path_charts(paths),
    }
