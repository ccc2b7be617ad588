"""An experiment: a network run with drawn weights, on the example and on a perturbed one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from alignment.difference import difference
from alignment.permutation import draws_that_tell, identity_permutation, permute, random_permutation
from alignment.spec import PermutationSpec, State
from alignment.tracing.bench import Bench


@dataclass(frozen=True)
class Experiment:
    """Inputs, the weights they are put through, and what came out."""

    bench: Bench
    state: State
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Sequence[Tensor], ...]
    generator: torch.Generator

    @property
    def tolerance(self) -> float:
        """What is still rounding."""
        return self.bench.tolerance

    def deviation(self, spec: PermutationSpec, groups: Iterable[str]) -> float:
        """How far random permutations of ``groups`` move the outputs at most, relative to their scale."""
        groups = list(groups)
        return max(self._deviation(spec, groups) for _ in range(draws_that_tell(spec, groups)))

    def _deviation(self, spec: PermutationSpec, groups: Sequence[str]) -> float:
        chosen = random_permutation(spec, self.generator)
        permutation = {**identity_permutation(spec), **{group: chosen[group] for group in groups}}
        return self.change(permute(spec, permutation, self.state))

    def change(self, state: State) -> float:
        """How far the outputs with ``state`` lie from those with the weights drawn, relative to their scale."""
        self.bench.load(state)
        runs = zip(self.inputs, self.outputs, strict=True)
        return max(difference(before, self.bench.outputs(inputs)).relative for inputs, before in runs)


def set_up(bench: Bench, generator: torch.Generator) -> Experiment:
    """With weights drawn so that no scale is 1, no shift 0 and no layer zero; the network's own where those fail."""
    own = bench.state()
    inputs = (bench.inputs, _perturbed(bench.inputs, generator))
    for state in (redrawn(own, generator), own):
        bench.load(state)
        runs = [(given, found) for given in inputs if (found := _finite_outputs(bench, given)) is not None]
        if runs:
            break
    else:
        state, runs = own, [(bench.inputs, bench.outputs(bench.inputs))]
    return Experiment(bench, state, tuple(i for i, _ in runs), tuple(o for _, o in runs), generator)


def _finite_outputs(bench: Bench, inputs: tuple[Any, ...]) -> list[Tensor] | None:
    try:
        outputs = bench.outputs(inputs)
    except Exception:  # a network may refuse inputs or weights that it was not given
        return None
    return outputs if all(bool(tensor.isfinite().all()) for tensor in outputs) else None


def redrawn(state: State, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of the same scale without symmetry; what is nowhere negative stays so (scales, variances, masks)."""
    drawn = {key for key, tensor in state.items() if tensor.is_floating_point() and tensor.layout == torch.strided}
    return {key: redraw(tensor, generator) if key in drawn else tensor for key, tensor in state.items()}


def redraw(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other numbers of the same scale."""

    def draw(random: Callable[..., Tensor]) -> Tensor:
        return random(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)

    if not tensor.any():
        return 0.1 * draw(torch.randn)
    scaled = tensor * (0.5 + draw(torch.rand))
    return torch.where(draw(torch.rand) < 0.5, -scaled, scaled) if (tensor < 0).any() else scaled


def _perturbed(inputs: tuple[Any, ...], generator: torch.Generator) -> tuple[Any, ...]:
    """Noise on what is continuous, another order of what is not."""

    def perturb(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided:
            return tensor
        flat = tensor.reshape(-1)
        if not tensor.is_floating_point():
            return flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)].reshape(tensor.shape)
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        return tensor + 0.3 * noise * (tensor.abs().mean() or 1.0)

    perturbed: tuple[Any, ...] = pytree.tree_map_only(Tensor, perturb, inputs)
    return perturbed
