"""A site's own samples: its part of the data, a fixed share of which is held out from training."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from client.site import Site
from client.sources import DataError, Samples, read_samples
from models import FAMILIES
from strategies.settings import Settings


@dataclass(frozen=True)
class SiteData:
    """What the site trains on, and what it only evaluates on."""

    train: Samples
    held_out: Samples


@lru_cache(maxsize=8)
def load_site_data(site: Site, settings: Settings) -> SiteData:
    """The site's samples, checked against the network's input and classes, and cut in two.

    Raises `DataError` for samples of another shape, class numbers out of range, or too few of them.
    """
    return share_of(fitting(read_samples(site.data), site.data, settings), site, settings)


def fitting(samples: Samples, data: str, settings: Settings) -> Samples:
    """``samples``, with the run's numbers of classes. Raises `DataError` unless the network takes them."""
    samples = numbered(samples, data, settings.named_classes)
    _check(samples, data, settings)
    return samples


def share_of(samples: Samples, site: Site, settings: Settings) -> SiteData:
    """What of ``samples`` is the site's, cut in two. Raises `DataError` where that is too few."""
    if site.n_partitions > 1:
        # Of simulated sites alone: it imports more than torch does, and each message to a site starts a process.
        from client.partition import partition_rows

        labels = samples.targets.numpy()
        try:
            rows = partition_rows(labels, settings, site.partition, site.n_partitions)
        except (ValueError, IndexError) as error:
            shared = f"{len(samples)} samples cannot be shared out over {site.n_partitions} sites"
            raise DataError(f"data {site.data!r}: {shared} by split = {settings.split!r}: {error}") from error
        samples = samples.take(rows)
    held_out = _held_out_rows(samples, settings.held_out, site.seed(settings.seed, "held-out"))
    data = SiteData(samples.take(~held_out), samples.take(held_out))
    if len(data.train) < 2 or len(data.held_out) < 1:
        got = f"{len(data.train)} and {len(data.held_out)}"
        fewer = "have fewer sites, " if site.n_partitions > 1 else ""
        raise DataError(
            f"site {site.name!r}: expected at least 2 samples to train on and 1 held out, got {got}. "
            f"Give more samples, {fewer}or change the run's 'held-out'"
        )
    return data


def numbered(samples: Samples, data: str, names: tuple[str, ...]) -> Samples:
    """``samples``, each class with the number that ``names`` gives its name: at every site the same.

    Where either has no names, the numbers stay. Raises `DataError` for a class that is none of ``names``.
    """
    if not (names and samples.names):
        return samples
    if unknown := [name for name in samples.names if name not in names]:
        raise DataError(f"data {data!r}: class {unknown[0]!r} is none of 'class-names', {', '.join(names)}")
    numbers = torch.tensor([names.index(name) for name in samples.names])
    return Samples(samples.inputs, numbers[samples.targets], names)


def class_counts(samples: Samples, classes: int) -> list[int]:
    """The number of samples of each class."""
    return [int(count) for count in torch.bincount(samples.targets, minlength=classes)]


def _check(samples: Samples, data: str, settings: Settings) -> None:
    dtype = samples.inputs.dtype
    if settings.model in FAMILIES and not dtype.is_floating_point and dtype != torch.uint8:
        raise DataError(
            f"data {data!r}: inputs are {str(dtype).removeprefix('torch.')}, which are taken as tokens, and the "
            f"network {settings.model!r} takes numbers. Give pixels as bytes (uint8, 0 to 255), others as float32"
        )
    if tuple(samples.inputs.shape[1:]) != settings.tensor_shape:
        got = "x".join(str(size) for size in samples.inputs.shape[1:])
        raise DataError(f"data {data!r}: samples have shape {got}, the setting 'shape' says {settings.shape}")
    if samples.names and len(samples.names) != settings.classes:
        # Numbered by their order, a class that one site lacks would move all others.
        raise DataError(
            f"data {data!r}: it has the classes {', '.join(samples.names)}, the setting 'classes' says "
            f"{settings.classes}. Where not every site has every class, the run must name them: 'class-names'"
        )
    low, high = int(samples.targets.min()), int(samples.targets.max())
    if low < 0 or high >= settings.classes:
        raise DataError(
            f"data {data!r}: classes are numbered {low}..{high}, the setting 'classes' says {settings.classes}, "
            "numbered from 0"
        )


def _held_out_rows(samples: Samples, share: float, seed: int) -> torch.Tensor:
    """A mask over the rows: ``share`` of each class."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(samples), dtype=torch.bool)
    for label in range(int(samples.targets.max()) + 1 if len(samples) else 0):
        members = (samples.targets == label).nonzero().flatten()
        chosen = torch.randperm(len(members), generator=generator)[: round(share * len(members))]
        mask[members[chosen]] = True
    return mask
