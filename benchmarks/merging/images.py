"""CIFAR-10 as sites read it: the first 20,000 training images, decoded once and kept beside the cached trainings."""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from client.sources import read_samples
from strategies.files import write_text

CACHE = "FEDREBASIN_BENCHMARK_CACHE"
N_IMAGES = 20_000
DATA = "benchmarks.merging.images:cifar10"


def cache_folder() -> Path:
    """Where decoded images and trained networks are kept; the environment variable of this name moves it."""
    return Path(os.environ.get(CACHE, Path.home() / ".cache" / "fedrebasin-benchmarks"))


def decode(source: str) -> Path:
    """The file that `cifar10` reads, made if need be of ``source``, a folder in the layout of `uoft-cs/cifar10`.

    Raises ValueError where it was made of another folder: trainings beside it are of those images.
    """
    path = cache_folder() / f"cifar10-{N_IMAGES}.safetensors"
    told = path.with_suffix(".source")
    wanted = str(Path(source).resolve())
    if path.exists():
        if told.exists() and (made_of := told.read_text(encoding="utf-8")) != wanted:
            raise ValueError(
                f"{path}: expected the images of {wanted}, got those of {made_of}; "
                f"choose another cache with {CACHE}, or remove this one if no training in it is wanted"
            )
        return path
    samples = read_samples(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(told, wanted)
    partial = path.with_suffix(".partial")
    save_file({"inputs": samples.inputs[:N_IMAGES].clone(), "targets": samples.targets[:N_IMAGES].clone()}, partial)
    partial.replace(path)
    return path


def cifar10() -> tuple[Tensor, Tensor]:
    """Images as bytes, and their classes."""
    tensors = load_file(cache_folder() / f"cifar10-{N_IMAGES}.safetensors")
    return tensors["inputs"], tensors["targets"]
