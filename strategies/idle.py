"""Which settings change nothing: those that differ from their default and that another setting leaves without effect.

They are no errors: a run config may keep a number for the day that it is used. Whoever sets one is told; so is whoever
sets what can hardly be meant.
"""

from collections.abc import Callable
from dataclasses import dataclass

from strategies.settings import Settings, as_written

MOST_ADJUSTMENT = 2.0


@dataclass(frozen=True)
class Needs:
    """The settings ``keys`` have an effect where ``used`` holds, which is ``words`` in words."""

    keys: tuple[str, ...]
    used: Callable[[Settings], bool]
    words: str


def _may_have_batch_norm(settings: Settings) -> bool:
    """As far as settings tell; a user's own network may."""
    return settings.norm in ("", "batch") or ":" in settings.model


NEEDS = (
    Needs(("reference",), lambda s: s.align_at != "none", "align-at other than 'none'"),
    Needs(
        ("restarts",),
        lambda s: (
            s.variants
            or (s.start != "shared" and (s.align_at == "server" or (s.align_at != "none" and s.reference == "medoid")))
        ),
        "align-at = 'server' or reference = 'medoid', and start other than 'shared'",
    ),
    Needs(
        ("site-matching", "matching-weight", "matching-samples"),
        lambda s: s.aligns_at_sites,
        "align-at = 'site' or 'both'",
    ),
    Needs(("matching-weight",), lambda s: s.site_matching == "joint", "site-matching = 'joint'"),
    Needs(("refine",), lambda s: s.align_at == "both", "align-at = 'both'"),
    Needs(("distillation", "later-epochs", "later-learning-rate"), lambda s: s.rounds > 1, "rounds = 2 or more"),
    Needs(
        ("later-merge",),
        lambda s: s.rounds > 1 and s.in_round(first=False) != s,
        "rounds = 2 or more, and merge, head, mix or repair",
    ),
    Needs(("gram-shrinkage",), lambda s: s.sends_grams, "merge = 'least-squares'"),
    Needs(("gram-limit-megabytes",), lambda s: s.merge != "mean" or s.variants, "merge other than 'mean'"),
    Needs(("recalibrate-passes",), _may_have_batch_norm, "a network with BatchNorm"),
    Needs(
        ("statistics-samples",),
        lambda s: _may_have_batch_norm(s) or s.solves_head or s.merge != "mean" or s.variants or s.repair,
        "a network with BatchNorm, or head, merge, variants or repair that solve for something",
    ),
    Needs(
        ("path-samples",),
        lambda s: s.measures_lines and (_may_have_batch_norm(s) or s.solves_head),
        "probe-points or mix other than 'mean', and a network with BatchNorm or a solved last layer",
    ),
    Needs(("head-trips",), lambda s: s.head == "logistic", "head = 'logistic'"),
    Needs(
        ("admission", "max-update-norm", "max-update-ratio", "max-weight-share"),
        lambda s: s.privacy != "secure-aggregation",
        "to see each site's network, as with any other privacy",
    ),
    Needs(("max-weight-share",), lambda s: s.rule == "mean", "rule = 'mean': the others weigh all sites alike"),
    Needs(("mix-points",), lambda s: s.mix == "search", "mix = 'search'"),
    Needs(("malicious-sites",), lambda s: s.rule in ("trimmed-mean", "krum"), "rule = 'trimmed-mean' or 'krum'"),
    Needs(("clipping-norm",), lambda s: s.privacy in ("clipping", "local-dp"), "privacy = 'clipping' or 'local-dp'"),
    Needs(("dp-epsilon", "dp-delta"), lambda s: s.privacy == "local-dp", "privacy = 'local-dp'"),
    Needs(
        ("secure-range", "secure-threshold"),
        lambda s: s.privacy == "secure-aggregation",
        "privacy = 'secure-aggregation'",
    ),
    Needs(("dirichlet-alpha",), lambda s: s.split == "dirichlet", "split = 'dirichlet'"),
)


def remarks(settings: Settings) -> list[str]:
    """What whoever set them is told of settings that are no errors."""
    found = (_unled, _led_by_one, _untrained, _overadjusted, _unguarded, _counted_after)
    return [*idle(settings), *(line for each in found for line in each(settings))]


def _unled(settings: Settings) -> list[str]:
    if settings.reference != "global" or settings.start == "shared" or settings.initial or settings.align_at == "none":
        return []
    # Which `privacy` refuses.
    or_largest = "'largest', " if settings.privacy == "none" else ""
    return [
        "setting 'reference' = 'global': sites that start apart are aligned to a random network that nobody trained, "
        f"which brings them into no common order; set {or_largest}start = 'shared', or 'initial' to a trained network"
    ]


def _led_by_one(settings: Settings) -> list[str]:
    if settings.start != "shared" or settings.reference_is_known or settings.align_at == "none":
        return []
    return [
        f"setting 'reference' = {settings.reference!r}: sites that start from one network have their units in its "
        "order already; 'auto' aligns to that one, and to no site's"
    ]


def _untrained(settings: Settings) -> list[str]:
    if settings.epochs or settings.start == "checkpoint" or (settings.start == "shared" and settings.initial):
        return []
    brought = "start = 'checkpoint' for networks that sites bring" if settings.start == "seed" else "'initial'"
    return [
        f"setting 'epochs' = 0: with start = {settings.start!r}, sites send random networks that nobody trained; set "
        f"epochs to 1 or more, or {brought}"
    ]


def _overadjusted(settings: Settings) -> list[str]:
    if settings.logit_adjustment <= MOST_ADJUSTMENT:
        return []
    return [
        f"setting 'logit-adjustment' = {settings.logit_adjustment}: 1 takes the class frequencies of a site out of its "
        "network; far above that, it holds the classes that are rare there for frequent"
    ]


def _unguarded(settings: Settings) -> list[str]:
    # With privacy there is none, and nothing to set for one.
    if not settings.guard or settings.align_at == "none" or settings.privacy != "none":
        return []
    if not settings.probes:
        lacks = "probe-points"
    elif settings.align_at == "site" and not settings.tells_permutations:
        lacks = "networks as they were trained: align-at = 'both' or 'server', or baselines"
    else:
        return []
    return [
        f"setting 'guard' = true has nothing to judge by, so no alignment will be undone: it needs {lacks}; "
        "set guard = false if this is meant"
    ]


def _counted_after(settings: Settings) -> list[str]:
    if settings.head != "counts" or settings.merge == "mean":
        return []
    return [
        f"setting 'head' = 'counts' replaces the last layer, which merge = {settings.merge!r} has solved: "
        "head = 'mean' keeps that one, 'ridge' solves it again after the statistics are renewed"
    ]


def idle(settings: Settings) -> list[str]:
    """A line for each setting that is not its default and changes nothing, with what it would need."""
    got = settings.model_dump(by_alias=True)
    usual = type(settings)().model_dump(by_alias=True)
    return [
        f"setting {key!r} = {as_written(got[key])} changes nothing: it needs {each.words}"
        for each in NEEDS
        for key in each.keys
        if got[key] != usual[key] and not each.used(settings)
    ]
