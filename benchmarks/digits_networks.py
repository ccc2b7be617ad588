"""Networks that have learnt scikit-learn's digits, each from a start of its own, and the digits themselves.

    python -m benchmarks.digits_networks FOLDER --model resnet20 --depth 8 --width 16 --seeds 0 1 2

writes FOLDER/seed-0.safetensors and so on, for the commands in docs/alignment.md; ``--data
benchmarks.digits_networks:held_out`` is the fifth of the samples that no training saw.
"""

import argparse
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from client.sources import Samples, read_samples
from client.training import Schedule, train
from models import Architecture, build
from strategies.tensor_files import write_tensors

SHAPE = (1, 8, 8)
CLASSES = 10
EPOCHS = 15


def training() -> tuple[Tensor, Tensor]:
    """Four fifths of the digits."""
    part = _parts()[0]
    return part.inputs, part.targets


def held_out() -> tuple[Tensor, Tensor]:
    """The other fifth."""
    part = _parts()[1]
    return part.inputs, part.targets


def train_network(architecture: Architecture, seed: int, samples: Samples | None = None) -> nn.Module:
    """The network drawn and trained from ``seed`` on ``samples``, by default all that are for training."""
    model = build(architecture, seed)
    # Wide perceptrons diverge at the rate that suits convolutions with norms.
    rate = 0.1 if architecture.norm != "none" else 0.02
    train(model, samples or _parts()[0], Schedule(EPOCHS, 32, rate, 3e-3, seed), torch.device("cpu"))
    return model.eval()


@cache
def _parts() -> tuple[Samples, Samples]:
    digits = read_samples("digits")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits.take(order[len(digits) // 5 :]), digits.take(order[: len(digits) // 5])


def main() -> None:
    """Trains the networks that are asked for and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--norm", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    architecture = Architecture(options.model, SHAPE, CLASSES, options.width, options.depth, options.norm)
    for seed in options.seeds:
        model = train_network(architecture, seed)
        print(write_tensors(options.folder / f"seed-{seed}.safetensors", model.state_dict()))


if __name__ == "__main__":
    main()
