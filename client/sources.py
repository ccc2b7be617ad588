"""Where samples come from: scikit-learn's digits, a path that `datasets` reads, or a function of the site's own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image
from datasets import load_dataset as untyped_load_dataset  # pyright: ignore[reportUnknownVariableType]
from sklearn.datasets import load_digits
from torch import Tensor

from strategies.errors import OperatorError

DIGITS = "digits"
load_dataset = cast(Callable[..., object], untyped_load_dataset)


class DataError(OperatorError):
    """The data cannot be read, or is not what the network takes."""

    exit_code = 12


@dataclass(frozen=True)
class Samples:
    """Inputs (first axis: samples; bytes 0..255 or floats) and the number of each one's class."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: list[int] | Tensor) -> "Samples":
        """The samples in ``rows``."""
        return Samples(self.inputs[rows], self.targets[rows])

    def batches(
        self, size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs, bytes scaled to -1..1, and targets; shuffled when a generator is given.

        A last batch of a single sample is left out when shuffling: BatchNorm cannot train on it.
        """
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), size):
            rows = order[start : start + size]
            if generator is None or len(rows) > 1 or len(self) == 1:
                yield scaled(self.inputs[rows]).to(device), self.targets[rows].to(device)


def scaled(inputs: Tensor) -> Tensor:
    """Bytes to floats in -1..1; floats in single precision; other integers, which are tokens, as they are."""
    if inputs.dtype == torch.uint8:
        return inputs.float().div(127.5).sub(1)
    return inputs.float() if inputs.is_floating_point() else inputs


def read_samples(data: str) -> Samples:
    """All samples of ``data``: ``digits``, ``module:function``, or a folder or file of images or parquet.

    A function takes nothing and returns inputs and targets. Raises `DataError` that says what was looked for and where.
    """
    if data == DIGITS:
        return _digits()
    if ":" in data and not Path(data).exists():
        return _from_function(data)
    return _from_path(Path(data))


def describe_samples(samples: Samples) -> tuple[str, int]:
    """The settings ``shape`` and ``classes`` that fit ``samples``."""
    shape = "x".join(str(size) for size in samples.inputs.shape[1:])
    return shape, int(samples.targets.max()) + 1


def _digits() -> Samples:
    bunch = cast(Any, load_digits())
    # 17 grey levels, 0..16, as bytes: 16 · 15 = 240.
    pixels = torch.from_numpy(np.asarray(bunch.images)).mul(15).to(torch.uint8).unsqueeze(1)
    return Samples(pixels, torch.from_numpy(np.asarray(bunch.target)).long())


def _from_function(data: str) -> Samples:
    module, _, name = data.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data {data!r}: cannot import function {name!r} from module {module!r}: {error}") from error
    try:
        inputs, targets = function()
        samples = Samples(torch.as_tensor(inputs), torch.as_tensor(targets).long())
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"data {data!r}: expected a function that returns inputs and classes; {what}") from error
    return _checked(data, samples)


def _checked(data: str, samples: Samples) -> Samples:
    """``samples``, if there are any, each with one class number that is not negative."""
    if samples.targets.ndim != 1 or len(samples.inputs) != len(samples.targets) or not len(samples):
        shapes = f"inputs of shape {tuple(samples.inputs.shape)} and classes of shape {tuple(samples.targets.shape)}"
        raise DataError(f"data {data!r}: expected at least one sample and one class for each, got {shapes}")
    if int(samples.targets.min()) < 0:
        raise DataError(f"data {data!r}: classes are numbered from 0, got {int(samples.targets.min())}")
    return samples


def _from_path(path: Path) -> Samples:
    if not path.exists():
        raise DataError(
            f"data {str(path)!r}: no such file or folder. Expected 'digits', 'module:function', or a path that "
            "datasets.load_dataset reads: a folder of parquet files, or of images in one folder per class."
        )
    table = _load(path)
    image, label = _columns(path, table)
    images, labels = cast(Iterable[object], table[image]), cast(Iterable[int], table[label])
    pixels = [_pixels(path, each) for each in images]
    shapes = [each.shape for each in pixels]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise DataError(
                f"data {str(path)!r}: image {number} is {_size(shape)}, image 0 is {_size(shapes[0])}; expected all of "
                "one size and mode. Resize or convert them first."
            )
    samples = Samples(torch.from_numpy(np.stack(pixels)), torch.tensor(list(labels), dtype=torch.int64))
    return _checked(str(path), samples)


def _size(shape: tuple[int, ...]) -> str:
    return "channels x height x width " + "x".join(str(size) for size in shape)


def _load(path: Path) -> Dataset:
    name, files = ("parquet", {"data_files": str(path)}) if path.is_file() else (str(path), {})
    try:
        loaded = load_dataset(name, **files)
    except Exception as error:
        raise DataError(f"data {str(path)!r}: datasets.load_dataset failed: {error}") from error
    assert isinstance(loaded, DatasetDict)
    # A folder with a split of its own for testing keeps it to itself: only training data is cut up over sites.
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


def _columns(path: Path, table: Dataset) -> tuple[str, str]:
    features = cast(Mapping[str, object], table.features)
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = labels or [name for name, feature in features.items() if getattr(feature, "dtype", "") == "int64"]
    if len(images) != 1 or not labels:
        shown = ", ".join(f"{name} ({feature})" for name, feature in features.items())
        raise DataError(f"data {str(path)!r}: expected one image column and one label column, got {shown}")
    return images[0], labels[0]


def _pixels(path: Path, image: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # A palette image holds indices into its palette: a colour as a number means nothing.
    if getattr(image, "mode", "") == "P":
        image = cast(Any, image).convert("RGB")
    array = np.asarray(image, dtype=np.uint8)
    if array.ndim not in (2, 3):
        raise DataError(f"data {str(path)!r}: expected images of two or three axes, got shape {array.shape}")
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
