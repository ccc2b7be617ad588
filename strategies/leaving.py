"""What leaves a site, kind by kind: what each is, and what in a run's settings calls for it. See docs/privacy.md."""

from collections.abc import Callable
from dataclasses import dataclass

from strategies.called_for import lacking
from strategies.protocol import (
    ALIGN,
    ARRAYS,
    CLASS_COUNTS,
    EVALUATE,
    FEATURES,
    GRAM,
    LOGISTIC,
    MATCHING,
    METRICS,
    NETWORK,
    OUTPUTS,
    PERMUTATION,
    PROBE,
    RECALIBRATE,
    REPAIR,
    TRAIN,
)
from strategies.settings import Settings

NETWORKS, MASKED, COUNTS, OTHER = "network", "masked-network", "counts", "other"
# What fills an answer to these, by its record; one to any other question is of one kind.
IN_PARTS = {ARRAYS: NETWORKS, PERMUTATION: PERMUTATION, MATCHING: MATCHING, METRICS: COUNTS}


@dataclass(frozen=True)
class Kind:
    """What a site may send, in ``words``.

    name   under which its bytes are counted
    lacks  what would call for it, in words; empty where the settings do
    needs  what it takes beside settings, in words
    """

    name: str
    words: str
    lacks: Callable[[Settings], str]
    needs: str = ""


def _if(holds: Callable[[Settings], bool], words: str) -> Callable[[Settings], str]:
    return lambda settings: "" if holds(settings) else words


def _asked(message_type: str) -> Callable[[Settings], str]:
    return lambda settings: lacking(settings, message_type)


def _always(settings: Settings) -> str:
    return ""


_open = _if(lambda s: s.privacy != "secure-aggregation", "privacy other than 'secure-aggregation'")
_proposes = _if(
    lambda s: s.tells_permutations,
    "align-at = 'both', or 'site' with baselines or variants",
)
BY_QUESTION = {
    RECALIBRATE: Kind(
        "moments",
        "BatchNorm moments: of each channel count, Σx and Σx² over the training samples",
        _always,
        needs="a network with BatchNorm",
    ),
    REPAIR: Kind(
        "unit-moments",
        "moments of layers' outputs: of each unit count, Σx and Σx² over the training samples",
        _asked(REPAIR),
    ),
    FEATURES: Kind(
        "feature-sums",
        "head sums: Σφφᵀ and Σφyᵀ over the training samples, where φ are the inputs of the last layer; so also the "
        "class counts, and the mean feature of each class",
        _asked(FEATURES),
    ),
    LOGISTIC: Kind(
        "gradients",
        "head gradients: the training loss of the network sent, and its derivative by the last layer, Σφ(p − y)ᵀ",
        _asked(LOGISTIC),
    ),
    GRAM: Kind(
        "gram-matrices",
        "Gram matrices: Σxxᵀ over the training samples, where x are the inputs of a layer; in the first layer x "
        "are the samples themselves, or patches of them",
        _asked(GRAM),
    ),
    OUTPUTS: Kind(
        "output-sums",
        "layer sums: Σxxᵀ and Σxyᵀ over the training samples, where x are the inputs and y the outputs of a layer; in "
        "the first layer x are the samples themselves, or patches of them",
        _asked(OUTPUTS),
    ),
    EVALUATE: Kind(
        "held-out-sums",
        "evaluation sums: of each network asked about, the numbers of held-out samples and of right answers, and the "
        "sum of the losses",
        _always,
    ),
    PROBE: Kind("line-sums", "probe sums: the same at each point of the lines between networks", _asked(PROBE)),
}
KINDS = (
    Kind(NETWORKS, "the site's network", _open),
    Kind(
        MASKED,
        "the site's network under a mask, with keys, shares of keys and its number of training samples",
        _if(lambda s: s.privacy == "secure-aggregation", "privacy = 'secure-aggregation'"),
    ),
    Kind(PERMUTATION, "the permutation of units that the site found", _proposes),
    Kind(
        MATCHING,
        "how well it matched, the share of units that it moves in each group, and the seconds that it took",
        _if(lambda s: s.aligns_at_sites and s.privacy == "none", "align-at = 'site' or 'both', and no privacy"),
    ),
    Kind(COUNTS, "counts: of training samples; without privacy also the mean training loss", _open),
    Kind(
        CLASS_COUNTS,
        "class counts as such: how many training samples of each class the site holds",
        _if(lambda s: s.tells_class_counts, "head = 'counts', baselines or variants"),
    ),
    *BY_QUESTION.values(),
    Kind(OTHER, "what no question asks for", lambda settings: "a site with other code"),
)


def kind_of(settings: Settings, message_type: str, record: str, key: str) -> str:
    """The name of the `Kind` that ``key`` of a reply's ``record`` is of, in a run with these settings."""
    if message_type in BY_QUESTION:
        return BY_QUESTION[message_type].name
    if message_type == TRAIN and settings.privacy == "secure-aggregation":
        return MASKED
    found = IN_PARTS.get(record, OTHER) if message_type in (TRAIN, NETWORK, ALIGN) else OTHER
    return CLASS_COUNTS if found == COUNTS and key == CLASS_COUNTS else found


def network_words(settings: Settings) -> str:
    """How the networks of sites go out."""
    if settings.privacy != "none":
        covered = {"clipping": "clipped", "local-dp": "clipped, with noise", "secure-aggregation": "masked"}
        return f"with its units in the reference's order, its update {covered[settings.privacy]}; no buffers"
    if settings.align_at != "site":
        return "as it was trained"
    words = "with its units in the reference's order"
    if settings.tells_permutations:
        return f"{words}; with the permutation, also as it was trained"
    if settings.reference_is_known:
        return words
    whose = "that of every site" if settings.reference == "medoid" else "that of the reference's site"
    return f"{words}; in the rounds up to the first merge {whose} also as it was trained"
