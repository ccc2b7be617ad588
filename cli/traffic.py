"""What a run moves to and from each site in a round, at most: told before anybody trains."""

from collections.abc import Iterable, Iterator, Mapping

from cli.output import people, print_table
from server.planned import Load, TrafficBound, total
from strategies.layer_sums import MEGABYTE

# Megabytes below which it does not matter how few they are, and from which on none is shown in part.
LEAST, WHOLE = 0.001, 100
# What each part is, for people, with the setting that asks for it.
WORDS = {
    "training": "networks, sent out and trained",
    "lines": "lines (probe-points)",
    "guard": "means compared (guard)",
    "layers": "layers (merge)",
    "search": "network of least loss (mix)",
    "statistics": "statistics of the merge",
    "repair": "moments of units (repair)",
    "head": "last layer (head)",
    "evaluation": "the merge, judged",
    "alone": "each site alone (probe-points, mix)",
    "baselines": "baselines",
    "variants": "variants",
}


def as_document(moved: TrafficBound) -> dict[str, object]:
    """The same for scripts, in bytes."""
    rounds = {"first_round": moved.first, "later_round": moved.later}
    return {
        "n_sites": moved.n_sites,
        **{name: {**_told(total(parts)), "parts": _each(parts)} for name, parts in rounds.items()},
        "further_site": dict(zip(rounds, map(_told, moved.further_site), strict=True)),
    }


def show_traffic(moved: TrafficBound, *, has_later: bool) -> None:
    """A table for people, in megabytes, and what there is more with more sites; of later rounds where there are any."""
    rounds = {"first": moved.first} | ({"later": moved.later} if has_later else {})
    names = [name for name in WORDS if any(name in parts for parts in rounds.values())]
    rows = [(WORDS[name], *_row(parts.get(name) for parts in rounds.values())) for name in names]
    totals = [total(parts) for parts in rounds.values()]
    rows.append(("in all", *_row(totals)))
    columns = ("MB at most, for", *(title for which in rounds for title in (f"{which}, to", "from")))
    each = " and in each later one" if has_later else ""
    print_table(
        f"to and from each of {moved.n_sites} sites (min-sites), in the first round that merges{each}", columns, rows
    )
    more = [f"{_megabytes(load.to_site)} MB to and {_megabytes(load.from_site)} from" for load in moved.further_site]
    asked = [f"{each.questions} times" for each in totals]
    lines = (
        f"each further site adds for each: {'; later '.join(more[: len(rounds)])}",
        f"each site is asked at most {', later '.join(asked)}",
        "less where alignment moves nothing or a step ends early; what Flower adds to carry it is not counted",
    )
    for line in lines:
        people.print(line, highlight=False, soft_wrap=True)


def _each(parts: Mapping[str, Load]) -> dict[str, object]:
    return {name: _told(load) for name, load in parts.items()}


def _told(load: Load) -> dict[str, int]:
    return {"to_site_bytes": load.to_site, "from_site_bytes": load.from_site, "questions": load.questions}


def _row(loads: Iterable[Load | None]) -> Iterator[str]:
    for load in loads:
        yield from ("", "") if load is None else (_megabytes(load.to_site), _megabytes(load.from_site))


def _megabytes(size: int) -> str:
    amount = size / MEGABYTE
    if 0 < amount < LEAST:
        return f"<{LEAST}"
    return f"{amount:,.0f}" if amount >= WHOLE else f"{amount:.3g}"
