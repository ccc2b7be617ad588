"""Which settings do not go together: with `privacy`, those that would let out beside it what it covers; with a robust
`rule`, those that let one site into the merge beside it; with a shared start, a reference that is another network.

One row a setting: what it must be, why, and what to set. `strategies.settings.parse_settings` asks once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.quantization import most_sites

if TYPE_CHECKING:
    from strategies.settings import Settings


@dataclass(frozen=True)
class Rule:
    """What the setting ``key`` must be: a test, the same in words, and the reason."""

    key: str
    fits: Callable[[Settings], bool]
    expected: str
    why: str


# A site's own network, or what is measured of it, goes nowhere but through what `privacy` puts around it.
private = (
    Rule(
        "align-at",
        lambda settings: settings.align_at == "site",
        "'site'",
        "the server would need each network as it is to align it, and would align noise",
    ),
    Rule(
        "reference",
        lambda settings: settings.reference_is_known,
        "the path of a safetensors file, or, if start = 'shared' or 'initial' is given, 'global'",
        "one site would send its network as it is, for the others to align to",
    ),
    Rule(
        "probe-points",
        lambda settings: not settings.probes,
        "0",
        "each site's network would be sent to all others, which measure the line to it",
    ),
    Rule(
        "mix",
        lambda settings: settings.mix == "mean",
        "'mean'",
        "each site's network would be sent to all others, which judge it",
    ),
    Rule(
        "merge",
        lambda settings: settings.merge == "mean",
        "'mean'",
        "sites would get their own network back, and send exact sums over its layers' inputs",
    ),
    Rule(
        "head",
        lambda settings: settings.head == "mean",
        "'mean'",
        "sites would send how many samples of each class they hold, or exact sums over features, which tell it too",
    ),
    Rule(
        "repair",
        lambda settings: not settings.repair,
        "false",
        "each site's network would be sent to all others, for exact statistics of its units",
    ),
    Rule(
        "baselines",
        lambda settings: not settings.baselines,
        "false",
        "sites would see each other's networks, and send how many samples of each class they hold",
    ),
    Rule(
        "variants",
        lambda settings: not settings.variants,
        "false",
        "sites would send their networks as they were trained, and exact sums over their layers' inputs",
    ),
)
noised = (
    Rule(
        "dp-epsilon",
        lambda settings: settings.dp_epsilon < 1,
        "a number above 0 and below 1",
        "the deviation of Flower's noise, √(2 ln(1.25 / dp-delta)) · sensitivity / dp-epsilon, is that of the Gaussian "
        "mechanism below 1 alone (Dwork and Roth 2014, theorem A.1), and above it promises what does not hold",
    ),
)
masked = (
    Rule(
        "min-sites",
        lambda settings: settings.min_sites >= 3,
        "3 or more",
        "of the mean of two networks, each site knows the other's",
    ),
    Rule(
        "min-sites",
        lambda settings: settings.min_sites <= most_sites,
        f"at most {most_sites}",
        "a sum in 32 bits has no room for more networks",
    ),
    Rule(
        "secure-threshold",
        lambda settings: settings.secure_threshold > 0.5,
        "a number above 0.5 and below 1",
        "with half of the sites or fewer, a server could open one network by telling two halves different things",
    ),
)
robust = (
    Rule(
        "merge",
        lambda settings: settings.merge == "mean",
        "'mean'",
        "layers would be solved from every site's network and Gram matrices, the poisoned ones too",
    ),
    Rule(
        "mix",
        lambda settings: settings.mix == "mean",
        "'mean'",
        "single sites' networks could be the merge, or be mixed into it",
    ),
    Rule(
        "repair",
        lambda settings: not settings.repair,
        "false",
        "units would be given the means and deviations of every site's network, the poisoned ones too",
    ),
    Rule(
        "head",
        lambda settings: settings.head != "counts",
        "'mean', 'ridge' or 'logistic'",
        "the last layer would be averaged over all sites by the counts that they tell",
    ),
    Rule(
        "privacy",
        lambda settings: settings.privacy != "secure-aggregation",
        "'none', 'clipping' or 'local-dp'",
        "of a sum alone nobody can tell the outlier",
    ),
)
trimmed = Rule(
    "min-sites",
    lambda settings: settings.min_sites > 2 * settings.malicious_sites,
    "more than twice malicious-sites",
    "with fewer replies nothing is left when the greatest and the least are cut off",
)
elected = Rule(
    "min-sites",
    lambda settings: settings.min_sites >= 2 * settings.malicious_sites + 3,
    "at least twice malicious-sites, plus 3",
    "with fewer replies the poisoned ones could be each other's neighbours (Blanchard et al. 2017, proposition 2)",
)
unled = (
    Rule(
        "reference",
        lambda settings: not settings.reference_is_file or not settings.aligns_at_sites,
        "'auto' or 'global'",
        "sites are sent one network, which they train from and align to: 'initial' may name that file",
    ),
)
chosen = (
    Rule(
        "repair",
        lambda settings: not settings.repair,
        "false",
        "REPAIR moves units towards the average over all sites of their means and deviations, and the network of least "
        "loss need not take all sites alike: it may be that of one",
    ),
)
# By setting and value, what others must be.
RULES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("privacy", "clipping"): private,
    ("privacy", "local-dp"): (*private, *noised),
    ("privacy", "secure-aggregation"): (*private, *masked),
    ("rule", "trimmed-mean"): (*robust, trimmed),
    ("rule", "median"): robust,
    ("rule", "krum"): (*robust, elected),
    ("start", "shared"): unled,
    ("mix", "best"): chosen,
    ("mix", "search"): chosen,
}
USUAL = {"mix": "mean", "privacy": "none", "rule": "mean", "start": "seed"}


def conflicts(settings: Settings) -> list[str]:
    """What does not go together: what was expected and got, why, and what to set."""
    got = settings.model_dump(by_alias=True)
    return (
        _misnamed(settings)
        + _too_few_points(settings)
        + [
            f"setting {rule.key!r}: expected {rule.expected} with {key} = {value!r}, got {got[rule.key]!r}: "
            f"{rule.why}. Set {rule.key} to {rule.expected}, or {key} to {USUAL[key]!r}."
            for (key, value), rules in RULES.items()
            if got[key] == value
            for rule in rules
            if not rule.fits(settings)
        ]
    )


def _misnamed(settings: Settings) -> list[str]:
    names = settings.named_classes
    if not names or (len(set(names)) == len(names) == settings.classes and all(names)):
        return []
    twice = sorted({name for name in names if names.count(name) > 1})
    return [
        f"setting 'class-names': expected {settings.classes} different names, as 'classes' says, with commas in "
        f"between, got {len(set(names))}: {settings.class_names!r}" + (f", with {twice[0]!r} twice" if twice else "")
    ]


def _too_few_points(settings: Settings) -> list[str]:
    """A path has two ends, which say nothing of what lies between."""
    if settings.probe_points not in (1, 2):
        return []
    got = f"got {settings.probe_points}: both ends of a path are points, and barrier and guard look at those between"
    return [f"setting 'probe-points': expected 0, for no probing, or 3 or more, {got}"]
