"""Whose networks a run sends to whom, as far as its settings decide that: told before a run, and in its report."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from strategies.layer_sums import MEGABYTE
from strategies.settings import Settings, as_written

KNOWN = "as aligned and, where the server has it so, as it was trained"


@dataclass(frozen=True)
class Sent:
    """Where ``used`` holds, ``words`` say what is sent for the setting ``key``."""

    key: str
    used: Callable[[Settings], bool]
    words: str


SENT = (
    Sent(
        "reference",
        lambda s: s.aligns_at_sites and not s.reference_is_known,
        "in round 1 every site is sent the network of the site that is the reference",
    ),
    Sent(
        "probe-points",
        lambda s: s.probes,
        f"every site is sent every other site's network, {KNOWN}, to measure the lines to them",
    ),
    Sent(
        "mix",
        lambda s: s.mix != "mean",
        f"every site is sent every other site's network, {KNOWN}, what was made of all, and what mixtures there are",
    ),
    Sent(
        "guard",
        lambda s: s.guards and s.align_at != "none",
        "where lines do not tell, every site is sent the means of networks with and without alignment",
    ),
    Sent("rule", lambda s: s.rule == "krum", "the merged network, which every site is sent, is that of one site"),
    Sent("repair", lambda s: s.repair, "every site is sent every other site's network as aligned"),
    Sent(
        "baselines",
        lambda s: s.baselines,
        "in the first round that merges every site is sent every other site's network and class frequencies",
    ),
    Sent(
        "variants", lambda s: s.variants, "in the first round that merges every site is sent several means of networks"
    ),
)


def sent_lines(settings: Settings) -> Iterator[str]:
    """A line for each setting by which sites are sent each other's networks."""
    got = settings.model_dump(by_alias=True)
    for each in SENT:
        if each.used(settings):
            yield f"{each.key} = {as_written(got[each.key])}: {each.words}"


def sent_networks(settings: Settings, size_bytes: int) -> Iterator[str]:
    """The same before a run, with the ``size_bytes`` of each network."""
    for line in sent_lines(settings):
        yield f"{line} (one is {size_bytes / MEGABYTE:.3g} MB)"
