"""What a site answers: what the run's settings call for, whatever the server asks."""

from collections.abc import Sequence

from torch import nn

from models import Architecture, example_inputs
from strategies.called_for import WITH_PRIVACY, lacking
from strategies.errors import OperatorError
from strategies.layer_sums import LayerSums, layer_sums
from strategies.settings import Settings


def check_answered(settings: Settings, message_type: str) -> None:
    """Raises `OperatorError` where a site does not answer such messages in a run with these settings."""
    if settings.privacy != "none" and message_type not in WITH_PRIVACY:
        raise OperatorError(f"asked for {message_type} in a run with privacy = {settings.privacy!r}: not answered")
    if words := lacking(settings, message_type):
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
