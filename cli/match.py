"""One network matched to another by the method that was asked for."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from alignment import Matching, PermutationSpec, match_activations, match_straight_through, match_weights
from cli.bars import Bars
from cli.errors import OptionError
from cli.evidence import Evidence
from cli.networks import Network, State
from cli.options import Layers, Method


@dataclass(frozen=True)
class Matcher:
    """How to match: the network and its spec, the method, and the data where the method needs it."""

    network: Network
    spec: PermutationSpec
    method: Method
    steps: int
    evidence: Evidence | None
    seed: int
    bars: Bars

    def match(self, reference: State, candidate: State, title: str) -> Matching:
        """The permutation of ``candidate``. Each call draws from the seed anew, so that no input depends on another."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.method is Method.WEIGHTS or self.evidence is None:
            with self.bars.stretch(title):
                return match_weights(self.spec, reference, candidate, generator=generator)
        data, module = self.evidence.data, self.network.module
        if self.method is Method.ACTIVATIONS:
            with self.bars.stretch(title, len(data)) as advance:
                batches = data.telling(advance)
                return match_activations(self.spec, module, reference, candidate, batches, generator=generator)
        with self.bars.stretch(title) as advance:
            return match_straight_through(
                *(self.spec, module, reference, candidate, data.telling(advance), cross_entropy),
                steps=self.steps,
                generator=generator,
            )


def require_data(method: Method, data: str, layers: Layers = Layers.MEAN) -> None:
    """Raises `OptionError` when ``method`` or ``layers`` looks at samples and there are none."""
    if layers is not Layers.MEAN and not data:
        raise OptionError(
            f"--layers {layers} looks at samples: add --data PATH, or use --layers mean, which needs none"
        )
    if method is not Method.WEIGHTS and not data:
        raise OptionError(
            f"--method {method} looks at samples: add --data PATH, or use --method weights, which needs none"
        )
