"""CIFAR-10 as sites read it: the first 20,000 training images, decoded once and kept beside the cached trainings."""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from client.sources import read_samples

CACHE = "FEDREBASIN_BENCHMARK_CACHE"
N_IMAGES = 20_000
DATA = "benchmarks.merging.images:cifar10"


def cache_folder() -> Path:
    """Where decoded images and trained networks are kept; the environment variable of this name moves it."""
    return Path(os.environ.get(CACHE, Path.home() / ".cache" / "fedrebasin-benchmarks"))


def decode(source: str) -> Path:
    """The file that `cifar10` reads, made if need be of ``source``, a folder in the layout of `uoft-cs/cifar10`."""
    path = cache_folder() / f"cifar10-{N_IMAGES}.safetensors"
    if not path.exists():
        samples = read_samples(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"inputs": samples.inputs[:N_IMAGES].clone(), "targets": samples.targets[:N_IMAGES].clone()}, partial)
        partial.replace(path)
    return path


def cifar10() -> tuple[Tensor, Tensor]:
    """Images as bytes, and their classes."""
    tensors = load_file(cache_folder() / f"cifar10-{N_IMAGES}.safetensors")
    return tensors["inputs"], tensors["targets"]
