"""Samples to match, recalibrate and measure on."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

from cli.errors import OptionError
from client.data import numbered
from client.sources import DataError, Samples, read_samples, scaled
from strategies.settings import split_names


@dataclass(frozen=True)
class Batches:
    """Samples in a shuffled order, batch after batch, as often as they are asked for; ``advance`` after each batch.

    Shuffled, since a folder lists one class after another, and BatchNorm's statistics of a batch must be those of all.
    """

    name: str
    samples: Samples
    order: Tensor
    size: int
    advance: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        # No batch of one: its variance is none.
        return max(1, min(ceil(len(self.order) / self.size), len(self.order) // 2))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.order.tensor_split(len(self)):
            yield scaled(self.samples.inputs[rows]), self.samples.targets[rows]
            self.advance()

    @property
    def sha256(self) -> str:
        """Of the samples in their own order."""
        digest = hashlib.sha256()
        for tensor in (self.samples.inputs, self.samples.targets):
            # As bytes first: NumPy has no bfloat16.
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def telling(self, advance: Callable[[], None]) -> "Batches":
        """The same, which calls ``advance`` after each batch."""
        return replace(self, advance=advance)


@dataclass(frozen=True)
class Evidence:
    """What to match and recalibrate on, and what to measure on: the same unless the user gave both."""

    data: Batches
    held_out: Batches

    @property
    def apart(self) -> Batches | None:
        """What is measured on and serves nothing else; none where there is no such, as where both are the same."""
        is_same = self.held_out is self.data or self.held_out.sha256 == self.data.sha256
        return None if is_same else self.held_out


def read_evidence(data: str, held_out: str, class_names: str, seed: int, batch_size: int) -> Evidence | None:
    """What ``--data`` and ``--held-out`` name, classes numbered as ``--class-names`` says; None without data.

    Without ``--class-names`` held-out samples are numbered as those of ``--data`` are.

    Raises `DataError`, and `OptionError` for held-out samples alone, and for class names of which two are the same.
    """
    if not data and held_out:
        raise OptionError("--held-out measures what is merged with --data: name both")
    if not data:
        return None
    names = split_names(class_names)
    if len(set(names)) < len(names) or not all(names):
        raise OptionError(f"--class-names: expected different names with commas in between, got {class_names!r}")
    samples = numbered(read_samples(data), data, names)
    batches = _batches(data, samples, seed, batch_size)
    if not held_out:
        return Evidence(batches, batches)
    others = read_samples(held_out)
    others = numbered(others, held_out, names) if names else _numbered_alike(others, held_out, samples)
    return Evidence(batches, _batches(held_out, others, seed, batch_size))


def _numbered_alike(others: Samples, held_out: str, samples: Samples) -> Samples:
    """``others``, whose classes may be fewer, with the numbers that ``samples`` gave to the same names."""
    if samples.names and (unknown := [name for name in others.names if name not in samples.names]):
        raise DataError(
            f"--held-out {held_out!r}: class {unknown[0]!r} is none of --data's, {', '.join(samples.names)}. Name all "
            "classes, in the order of the network's outputs, with --class-names, or take this one away"
        )
    return numbered(others, held_out, samples.names)


def _batches(name: str, samples: Samples, seed: int, batch_size: int) -> Batches:
    if len(samples) < 2:
        raise DataError(f"data {name!r}: 1 sample, expected 2 or more")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return Batches(name, samples, order, batch_size)
