"""A trial: how many neighbouring layers can be fitted at once to what the sites' layers put out?

python -m benchmarks.merging.sequential --data cifar10 --seeds 1

Each layer W̄ is solved so that its outputs, on what the merged network feeds it, are nearest to those of the sites'
aligned layers on what those feed them: min Σ_i ‖W̄ X̄_i − W_i X_i‖², each site's samples in both networks. Layers
behind then see what was solved before. docs/decisions/0012-sequential-least-squares.md has what came of it; the merge
itself is `merge = sequential`. Needs the trainings that `benchmarks.merging.trainings` leaves.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise, product

import torch
from rich.progress import track
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from alignment import derive_spec, interpolate, match_activations, match_weights, permute, write_moments
from alignment.batch_norm import batch_norm_moments
from alignment.batches import network_with
from alignment.least_squares import gram_sums, merge_layers
from alignment.linear_layers import gram_sizes
from alignment.sequential import fit_layers, output_sums
from alignment.spec import State
from benchmarks.merging.tasks import Task
from benchmarks.merging.trainings import Training, make
from client.answers import judge, outputs
from client.data import load_site_data
from client.sources import Samples
from models import Architecture, build, example_inputs

BATCH = 50


def main() -> None:
    """Prints the accuracy of the mean, of least squares all at once, and of each sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10"), default="cifar10")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0")
    parser.add_argument("--samples", type=int, default=500, help="of each site")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 20], help="runs of layers solved together")
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--split", default="biased")
    parser.add_argument("--targets", choices=("own", "all"), default="own", help="of the site's network, or their mean")
    parser.add_argument("--matching", choices=("joint", "weights"), default="joint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        task = Task(arguments.data, 16, arguments.split, 2, seed)
        trial = Trial(task, arguments.samples, arguments.matching, arguments.targets)
        layers = list(gram_sizes(trial.networks[0], trial.parts[0].inputs[:1].float()))
        grams = [gram_sums(network, part, layers) for network, part in trial.sites()]
        own = [network.state_dict() for network in trial.networks]
        scores = {
            "mean": trial.accuracy(trial.mean),
            "at once": trial.accuracy(merge_layers(trial.mean, own, grams)),
        }
        for steps in arguments.steps:
            merged = trial.mean
            for sweep in range(arguments.sweeps):
                for run in track(_runs(layers, steps), f"seed {seed}, {steps} steps, sweep {sweep + 1}"):
                    merged = trial.fitted(merged, run)
                scores[f"{steps} steps, sweep {sweep + 1}"] = trial.accuracy(merged)
        print(f"seed {seed}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)


class Trial:
    """Two trained networks, aligned, and some of what they were trained on."""

    def __init__(self, task: Task, n_samples: int, matching: str, targets: str) -> None:
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
        batches = self._batches(self.parts[1])
        found = (
            match_activations(spec, self._like, first, other, batches, settings.matching_weight)
            if matching == "joint"
            else match_weights(spec, first, other)
        )
        aligned = permute(spec, found.permutation, other)
        self.networks = [network_with(self._like, first), network_with(self._like, aligned)]
        self.mean = self._renewed(interpolate(first, aligned, 0.5))
        # Fitted to every network on every site's samples, a layer comes nearest to the mean of what they put out.
        everywhere = list(product(self.networks, map(self._batches, self.parts)))
        self._fitted_to = self.sites() if targets == "own" else everywhere

    def sites(self) -> list[tuple[nn.Module, list[Tensor]]]:
        """Each site's network, aligned, and its batches."""
        return [(network, self._batches(part)) for network, part in zip(self.networks, self.parts, strict=True)]

    def fitted(self, state: State, layers: Sequence[str]) -> dict[str, Tensor]:
        """``state`` with some layers fitted, all on its features as they are, and its statistics renewed."""
        merged = network_with(self._like, state)
        sums = [output_sums(merged, network, batches, layers) for network, batches in self._fitted_to]
        return self._renewed(fit_layers(state, sums))

    def accuracy(self, state: State) -> float:
        """On the union of held-out samples, statistics renewed."""
        state = self._renewed(state)
        right = [judge(outputs(self._like, state, part), part.targets).correct for part in self.held_out]
        return sum(right) / sum(map(len, self.held_out))

    def _renewed(self, state: State) -> dict[str, Tensor]:
        return write_moments(state, batch_norm_moments(network_with(self._like, state), self._all()))

    def _all(self) -> list[Tensor]:
        return [batch for part in self.parts for batch in self._batches(part)]

    def _batches(self, samples: Samples) -> list[Tensor]:
        return [inputs for inputs, _ in samples.batches(BATCH, torch.device("cpu"))]


def _runs(layers: Sequence[str], steps: int) -> list[Sequence[str]]:
    cuts = [len(layers) * k // steps for k in range(steps + 1)]
    return [layers[start:stop] for start, stop in pairwise(cuts) if stop > start]


def _some(samples: Samples, most: int) -> Samples:
    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:most])


if __name__ == "__main__":
    main()
