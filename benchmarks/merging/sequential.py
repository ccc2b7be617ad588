"""A trial: how many neighbouring layers can be fitted at once to what the sites' layers put out?

python -m benchmarks.merging.sequential --data cifar10 --seeds 1

Each layer W̄ is solved so that its outputs, on what the merged network feeds it, are nearest to those of the sites'
aligned layers on what those feed them: min Σ_i ‖W̄ X̄_i − W_i X_i‖², each site's samples in both networks. Layers
behind then see what was solved before. docs/decisions/0012-sequential-least-squares.md has what came of it; the merge
itself is `merge = sequential`. Needs the trainings that `benchmarks.merging.trainings` leaves.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import cast

import torch
from rich.progress import track
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from alignment import derive_spec, interpolate, match_activations, match_weights, permute, recalibrate
from alignment.least_squares import gram_sizes, gram_sums, inputs_as_rows, merge_layers
from alignment.solving import solve
from benchmarks.merging.tasks import Task
from benchmarks.merging.trainings import Training, make
from client.data import load_site_data
from client.sources import Samples
from models import Architecture, build, example_inputs

BATCH = 50
RIDGE = 1e-3


def main() -> None:
    """Prints the accuracy of the mean, of least squares all at once, and of each sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10"), default="cifar10")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0")
    parser.add_argument("--samples", type=int, default=500, help="of each site")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 20], help="runs of layers solved together")
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--matching", choices=("joint", "weights"), default="joint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        trial = Trial(Task(arguments.data, 16, "biased", 2, seed), arguments.samples, arguments.matching)
        mean = trial.mean
        scores = {"mean": trial.accuracy(mean)}
        grams = [gram_sums(net, list(part), list(gram_sizes(net))) for net, part in trial.sites()]
        own = [net.state_dict() for net in trial.networks]
        scores["at once"] = trial.accuracy(trial.with_state(merge_layers(mean.state_dict(), own, grams)))
        layers = list(gram_sizes(mean))
        for steps in arguments.steps:
            merged = trial.with_state(mean.state_dict())
            for sweep in range(arguments.sweeps):
                for run in track(_runs(layers, steps), f"seed {seed}, {steps} steps, sweep {sweep + 1}"):
                    trial.solve(merged, run)
                scores[f"{steps} steps, sweep {sweep + 1}"] = trial.accuracy(merged)
        print(f"seed {seed}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)


class Trial:
    """Two trained networks, aligned, and some of what they were trained on."""

    def __init__(self, task: Task, n_samples: int, matching: str) -> None:
        settings = task.settings
        trainings = [Training(task, partition) for partition in range(task.n_sites)]
        for training in trainings:
            make(training)
        data = [load_site_data(training.site, settings) for training in trainings]
        self.parts = [_some(each.train, n_samples) for each in data]
        self.held_out = [each.held_out for each in data]
        architecture = Architecture(*settings.network)
        self._like = build(architecture, 0)
        spec = derive_spec(self._like, example_inputs(architecture))
        first, other = (load_file(training.path) for training in trainings)
        batches = list(self._batches(self.parts[1]))
        found = (
            match_activations(spec, self._like, first, other, batches, settings.matching_weight)
            if matching == "joint"
            else match_weights(spec, first, other)
        )
        aligned = permute(spec, found.permutation, other)
        self.networks = [self.with_state(first), self.with_state(aligned)]
        self.mean = self.with_state(interpolate(first, aligned, 0.5))
        recalibrate(self.mean, self._all())

    def with_state(self, state: dict[str, Tensor]) -> nn.Module:
        """A network of that state."""
        network = copy.deepcopy(self._like)
        network.load_state_dict(state)
        return network.eval()

    def sites(self) -> list[tuple[nn.Module, Sequence[Tensor]]]:
        """Each site's network, aligned, and its batches."""
        return [(network, self._batches(part)) for network, part in zip(self.networks, self.parts, strict=True)]

    @torch.no_grad()
    def solve(self, mean: nn.Module, layers: Sequence[str]) -> None:
        """Solves some layers of ``mean``, in place, all on its features as they are, and renews its statistics."""
        total: dict[str, Tensor] = {}
        wanted: dict[str, Tensor] = {}
        for network, batches in self.sites():
            rows = {layer: _matrix(network, layer) for layer in layers}
            for batch in batches:
                ours, theirs = _inputs(mean, layers, batch), _inputs(network, layers, batch)
                for layer in layers:
                    _add(total, layer, (ours[layer].T @ ours[layer]).double())
                    _add(wanted, layer, (ours[layer].T @ theirs[layer]).double() @ rows[layer].T)
        for layer in layers:
            own = cast(nn.Conv2d, mean.get_submodule(layer))
            gram = total[layer]
            strength = RIDGE * gram.diagonal().mean()
            before = _matrix(mean, layer)
            solved = solve(gram + strength * torch.eye(len(gram)).double(), wanted[layer] + strength * before.T).T
            n_inputs = own.weight[0].numel()
            own.weight.copy_(solved[:, :n_inputs].reshape(own.weight.shape))
            if own.bias is not None:
                own.bias.copy_(solved[:, n_inputs])
        recalibrate(mean, self._all())

    def accuracy(self, network: nn.Module) -> float:
        """On the union of held-out samples, statistics renewed."""
        recalibrate(network, self._all())
        right = total = 0
        with torch.no_grad():
            for part in self.held_out:
                for inputs, targets in part.batches(BATCH, torch.device("cpu")):
                    right += int((network(inputs).argmax(1) == targets).sum())
                    total += len(targets)
        return right / total

    def _all(self) -> list[Tensor]:
        return [batch for part in self.parts for batch in self._batches(part)]

    def _batches(self, samples: Samples) -> list[Tensor]:
        return [inputs for inputs, _ in samples.batches(BATCH, torch.device("cpu"))]


def _runs(layers: Sequence[str], steps: int) -> list[Sequence[str]]:
    cuts = [len(layers) * k // steps for k in range(steps + 1)]
    return [layers[start:stop] for start, stop in pairwise(cuts) if stop > start]


def _some(samples: Samples, most: int) -> Samples:
    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:most])


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _inputs(network: nn.Module, layers: Sequence[str], batch: Tensor) -> dict[str, Tensor]:
    """What each layer's weights are applied to, one row for each time."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            caught[name] = inputs_as_rows(layer, inputs[0])

        return hook

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_pre_hook(catch(name)))
        network(batch)
    return caught


def _matrix(network: nn.Module, layer: str) -> Tensor:
    """The layer's weights with one row for each output, its bias a last column."""
    found = cast(nn.Conv2d, network.get_submodule(layer))
    rows = found.weight.flatten(1).double()
    return rows if found.bias is None else torch.cat((rows, found.bias.double()[:, None]), 1)


if __name__ == "__main__":
    main()
