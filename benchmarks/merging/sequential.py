"""A trial that was dropped: least squares one layer after another, on the merged network's own features.

python -m benchmarks.merging.sequential --data cifar10 --seeds 1

Each layer W̄ is solved so that its outputs, on what the merged network feeds it, are nearest to those of the sites'
aligned layers on what those feed them: min Σ_i ‖W̄ X̄_i − W_i X_i‖², each site's samples in both networks. Layers
behind then see what was solved before. docs/decisions/0012-no-sequential-least-squares.md has what came of it. Needs
the trainings that `benchmarks.merging.trainings` or `benchmarks.merging.quality` leave.
"""

import argparse
import copy
from collections.abc import Sequence
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
    parser.add_argument("--sweeps", type=int, default=2)
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
        for sweep in range(arguments.sweeps):
            for layer in track(list(gram_sizes(mean)), f"seed {seed}, sweep {sweep + 1}"):
                trial.solve(mean, layer)
            scores[f"sweep {sweep + 1}"] = trial.accuracy(mean)
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
    def solve(self, mean: nn.Module, layer: str) -> None:
        """Solves one layer of ``mean``, in place, and renews the statistics behind it."""
        total, wanted = 0.0, 0.0
        for network, batches in self.sites():
            weight = cast(nn.Conv2d, network.get_submodule(layer)).weight.flatten(1).double()
            for batch in batches:
                ours, theirs = _inputs(mean, layer, batch), _inputs(network, layer, batch)
                total = total + (ours.T @ ours).double()
                wanted = wanted + (ours.T @ theirs).double() @ _with_bias(network, layer, weight).T
        assert isinstance(total, Tensor)
        assert isinstance(wanted, Tensor)
        own = cast(nn.Conv2d, mean.get_submodule(layer))
        strength = RIDGE * total.diagonal().mean()
        before = _with_bias(mean, layer, own.weight.flatten(1).double())
        solved = solve(total + strength * torch.eye(len(total)).double(), wanted + strength * before.T).T
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


def _some(samples: Samples, most: int) -> Samples:
    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:most])


def _inputs(network: nn.Module, layer: str, batch: Tensor) -> Tensor:
    """What the layer's weights are applied to, one row for each time."""
    caught: list[Tensor] = []
    found = network.get_submodule(layer)
    with found.register_forward_pre_hook(lambda module, inputs: caught.append(inputs_as_rows(module, inputs[0]))):
        network(batch)
    return caught[0]


def _with_bias(network: nn.Module, layer: str, weight: Tensor) -> Tensor:
    bias = cast(nn.Conv2d, network.get_submodule(layer)).bias
    return weight if bias is None else torch.cat((weight, bias.double()[:, None]), 1)


if __name__ == "__main__":
    main()
