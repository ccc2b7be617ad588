"""The pairs of networks that matching is timed on, as rows of a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import fsum

import torch
from torch import Tensor, nn

from alignment.permutation import invert, permute, random_permutation
from alignment.spec import PermutationSpec, State
from alignment.tracing import derive_spec
from benchmarks.trained_pair import accuracy, trained
from models.architecture import Architecture
from models.build import build

NOISE = 0.1
"""Standard deviation of the noise on a copy, as a share of that of each weight tensor."""


@dataclass(frozen=True)
class Pair:
    """A reference, a candidate, and what is known of them: the permutation to be found, or held-out accuracies."""

    spec: PermutationSpec
    reference: nn.Module
    candidate: nn.Module
    planted: Mapping[str, Tensor] | None = None
    accuracies: tuple[float, float] | None = None

    def inputs(self) -> Tensor:
        """A batch that fits the networks."""
        stem = next(self.reference.parameters())
        return torch.randn(2, stem.shape[1], 32, 32, generator=torch.Generator().manual_seed(0))

    def objective(self, aligned: State) -> float:
        """Σ ⟨W_ref, W_aligned⟩ over the tensors that count as evidence."""
        reference = self.reference.state_dict()
        return fsum(
            (reference[name].double() * aligned[name].double()).sum().item()
            for name in self.spec.axes
            if name not in self.spec.buffers
        )

    def function_change(self, aligned: State) -> float:
        """The greatest |difference| between the outputs of the candidate and of the aligned candidate."""
        x, candidate = self.inputs(), self.candidate.eval()
        with torch.no_grad():
            after = torch.func.functional_call(candidate, dict(aligned), (x,))
            return (candidate(x) - after).abs().max().item()

    def exact(self, found: Mapping[str, Tensor]) -> int | None:
        """How many groups came out as planted."""
        if self.planted is None:
            return None
        wanted = invert(self.spec, self.planted)
        return sum(torch.equal(found[name], wanted[name]) for name in wanted)


@dataclass(frozen=True)
class Work:
    """One row: a pair to be made, and the peers that are timed on it."""

    name: str
    make: Callable[[], Pair]
    peers: tuple[str, ...]


def _copy() -> Pair:
    spec, reference, candidate = _resnet50(0)
    generator = torch.Generator().manual_seed(5)
    planted = random_permutation(spec, generator)
    candidate.load_state_dict(_noisy(permute(spec, planted, reference.state_dict()), generator))
    return Pair(spec, reference, candidate, planted)


def _unrelated() -> Pair:
    return Pair(*_resnet50(1))


def _near() -> Pair:
    spec, reference, candidate = _resnet50(0)
    candidate.load_state_dict(_noisy(reference.state_dict(), torch.Generator().manual_seed(5)))
    return Pair(spec, reference, candidate)


def _identical() -> Pair:
    return Pair(*_resnet50(0))


def _trained() -> Pair:
    reference, candidate = trained(0), trained(1)
    spec = derive_spec(reference, (torch.randn(2, 1, 32, 32),))
    return Pair(spec, reference, candidate, accuracies=(accuracy(reference), accuracy(candidate)))


def _resnet50(seed: int) -> tuple[PermutationSpec, nn.Module, nn.Module]:
    reference, candidate = (build(Architecture("resnet50", (3, 32, 32), 1000), s) for s in (0, seed))
    return derive_spec(reference, (torch.randn(2, 3, 32, 32),)), reference, candidate


def _noisy(state: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: tensor + NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1
        else tensor
        for name, tensor in state.items()
    }


WORKS = (
    Work("resnet50-copy", _copy, ("plain",)),
    Work("resnet50-unrelated", _unrelated, ("plain",)),
    Work("resnet50-near", _near, ()),
    Work("resnet50-identical", _identical, ()),
    Work("resnet18-trained", _trained, ("plain", "rebasin")),
)
