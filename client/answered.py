"""What a site answers: what the run's settings call for, whatever the server asks."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from models import Architecture, example_inputs
from strategies.errors import OperatorError
from strategies.layer_sums import LayerSums, layer_sums
from strategies.protocol import (
    ALIGN,
    DESCRIBE,
    EVALUATE,
    FEATURES,
    GRAM,
    LOGISTIC,
    NETWORK,
    OUTPUTS,
    PROBE,
    RECALIBRATE,
    REPAIR,
    TRAIN,
)
from strategies.settings import Settings

# In a run with privacy. All else asks for networks, or statistics, that are not covered by it.
WITH_PRIVACY = frozenset({DESCRIBE, TRAIN, RECALIBRATE, EVALUATE})
# What calls for a message that says more than these, the same in words.
CALLED_FOR: Mapping[str, tuple[Callable[[Settings], bool], str]] = MappingProxyType(
    {
        NETWORK: (
            lambda settings: settings.aligns_at_sites and not settings.reference_is_known,
            "a reference that is a site's network, with align-at = 'site' or 'both'",
        ),
        ALIGN: (lambda settings: settings.aligns_at_sites, "align-at = 'site' or 'both'"),
        PROBE: (lambda settings: settings.measures_lines, "probe-points or mix = 'search'"),
        FEATURES: (
            lambda settings: settings.solves_head or settings.variants,
            "head = 'ridge' or 'logistic', or variants",
        ),
        LOGISTIC: (lambda settings: settings.head == "logistic", "head = 'logistic'"),
        GRAM: (lambda settings: settings.sends_grams, "merge = 'least-squares', or variants"),
        OUTPUTS: (lambda settings: settings.merge == "sequential", "merge = 'sequential'"),
        REPAIR: (lambda settings: settings.repair, "repair"),
    }
)


def check_answered(settings: Settings, message_type: str) -> None:
    """Raises `OperatorError` where a site does not answer such messages in a run with these settings."""
    if settings.privacy != "none" and message_type not in WITH_PRIVACY:
        raise OperatorError(f"asked for {message_type} in a run with privacy = {settings.privacy!r}: not answered")
    is_called_for, words = CALLED_FOR.get(message_type, (lambda _: True, ""))
    if not is_called_for(settings):
        raise OperatorError(f"asked for {message_type} in a run without {words}: not answered")


def check_sent_as_it_is(settings: Settings, first: bool) -> None:
    """Raises `OperatorError` where a site that aligns itself sends no network, fresh from training, as it is.

    The medoid of the first round alone cannot be told without all of them.
    """
    if settings.align_at == "site" and not (first and settings.reference == "medoid"):
        raise OperatorError("asked for its network as it was trained in a run with align-at = 'site': not answered")


def sums_to_send(model: nn.Module, settings: Settings, layers: Sequence[str], in_sequence: bool) -> LayerSums:
    """The sums of which ``layers`` are asked for. Raises `OperatorError` for layers that the run's limit leaves out."""
    (inputs,) = example_inputs(Architecture(*settings.network))
    sums = layer_sums(model, inputs, settings, in_sequence)
    if unexpected := [name for name in layers if name not in sums.chosen]:
        raise OperatorError(
            f"asked for sums over the inputs of {unexpected[0]!r}: not answered; gram-limit-megabytes = {sums.limit:g} "
            f"allows {len(sums.chosen)} of {len(sums.every)} layers"
        )
    return sums
