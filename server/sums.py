"""What moments of a run's network look like, and what reads them in replies."""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial

from flwr.app import Message
from torch import Tensor, nn

from alignment.moments import Moments
from models import Architecture, example_inputs
from strategies.settings import Settings
from strategies.sums import read_moments

Measure = Callable[..., Mapping[str, Tensor]]


def moments_reader(
    measure: Measure, model: nn.Module, settings: Settings, asked: Collection[str], until: str | None = None
) -> Callable[[str, Message], dict[str, Moments]]:
    """What reads, of a reply, the moments that ``measure`` gives of each network ``asked`` about, like ``model``."""
    return partial(read_moments, shapes_of(measure, model, settings.network, until), asked)


@lru_cache(maxsize=128)
def shapes_of(
    measure: Measure,
    model: nn.Module,
    network: tuple[str, tuple[int, ...], int, int, int, str],
    until: str | None = None,
) -> dict[str, tuple[int, ...]]:
    """The shapes of what ``measure`` gives of ``model``, ``until`` a layer: the same at every question of a run."""
    options = {} if until is None else {"until": until}
    expected = measure(model, list(example_inputs(Architecture(*network))), **options)
    return {name: tuple(tensor.shape) for name, tensor in expected.items()}
