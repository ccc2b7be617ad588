"""Where samples come from: scikit-learn's digits, a path that `datasets` reads, or a function of the site's own."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from alignment.batches import joined
from models.errors import ModelError
from models.imported import import_function
from strategies.errors import OperatorError

DIGITS = "digits"


class DataError(OperatorError):
    """The data cannot be read, or is not what the network takes."""

    exit_code = 12


@dataclass(frozen=True)
class Samples:
    """Inputs (first axis: samples; bytes 0..255 or floats) and the number of each one's class.

    names  of the classes, where the data has any
    """

    inputs: Tensor
    targets: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: list[int] | Tensor) -> "Samples":
        """The samples in ``rows``."""
        return Samples(self.inputs[rows], self.targets[rows], self.names)

    def drawn(self, most: int, generator: torch.Generator) -> "Drawn":
        """``most`` of the samples (0: all) in random order, which together stand for all of them."""
        return Drawn(self, torch.randperm(len(self), generator=generator)[: most or None])

    def batch(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs, bytes scaled to -1..1, and targets, of the samples in ``rows``."""
        return scaled(self.inputs[rows]).to(device), self.targets[rows].to(device)

    def batches(
        self, size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch after batch; shuffled when a generator is given.

        A last batch of a single sample is left out when shuffling: BatchNorm cannot train on it. Else it is joined to
        the one before, since BatchNorm that keeps no statistics normalises by those of the batch in evaluation too.
        """
        if generator is None:
            pieces = joined(torch.split(torch.arange(len(self)), size))
        else:
            order = torch.randperm(len(self), generator=generator)
            pieces = [rows for rows in torch.split(order, size) if len(rows) > 1 or len(self) == 1]
        return (self.batch(rows, device) for rows in pieces)


@dataclass(frozen=True)
class Drawn:
    """Some of the samples, or all, in an order of their own, without a copy of them."""

    samples: Samples
    rows: Tensor

    @property
    def weight(self) -> float:
        """How many of the samples each of these stands for."""
        return len(self.samples) / len(self.rows)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch after batch."""
        return (self.samples.batch(rows, device) for rows in joined(torch.split(self.rows, size)))


def scaled(inputs: Tensor) -> Tensor:
    """Bytes to floats in -1..1; floats in single precision; other integers, which are tokens, as they are."""
    if inputs.dtype == torch.uint8:
        return inputs.float().div(127.5).sub(1)
    return inputs.float() if inputs.is_floating_point() else inputs


def read_samples(data: str) -> Samples:
    """All samples of ``data``: ``digits``, ``module:function``, or a folder or file of images or parquet.

    A function takes nothing and returns inputs and targets: arrays, tensors, or what pandas has; targets may be the
    classes' names. Raises `DataError` that says what was looked for and where.
    """
    # Imported where they are needed: each message to a site starts a process, and these take longer than torch.
    if data == DIGITS:
        return _digits()
    if ":" in data and not Path(data).exists():
        return _from_function(data)
    from client.tables import read_table

    return checked(data, read_table(Path(data)))


def describe_samples(samples: Samples) -> tuple[str, int]:
    """The settings ``shape`` and ``classes`` that fit ``samples``."""
    shape = "x".join(str(size) for size in samples.inputs.shape[1:])
    return shape, int(samples.targets.max()) + 1


@cache
def _digits() -> Samples:
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    # 17 grey levels, 0..16, as bytes: 16 · 15 = 240.
    pixels = torch.from_numpy(np.asarray(bunch.images)).mul(15).to(torch.uint8).unsqueeze(1)
    return Samples(pixels, torch.from_numpy(np.asarray(bunch.target)).long())


def _from_function(data: str) -> Samples:
    try:
        function = import_function(data, "data")
    except ModelError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"data {data!r}: its module cannot be imported; {what}") from error
    try:
        inputs, targets = cast(Iterable[Any], function())
        targets, names = _by_name(targets)
        inputs, targets = _in_memory(inputs), _in_memory(targets)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"data {data!r}: expected a function that returns inputs and classes; {what}") from error
    _check_whole(data, targets)
    return checked(data, Samples(inputs, targets.long(), names))


def _by_name(targets: Any) -> tuple[Any, tuple[str, ...]]:
    """The number of each target's name among the sorted names, and these; none where the targets are no text."""
    given = _without_pandas(targets)
    # Millions of numbers are not looked at one by one: each message to a site reads its data.
    if isinstance(given, Tensor) or not hasattr(given, "__iter__") or _are_numbers(given):
        return given, ()
    each = list(cast(Iterable[object], given))
    called = [name for name in each if isinstance(name, str)]
    if not called:
        return given, ()
    if len(called) < len(each):
        number, other = next((i, name) for i, name in enumerate(each) if not isinstance(name, str))
        raise ValueError(f"sample {number} has class {other!r}, and others have names")
    numbers = {name: number for number, name in enumerate(sorted(set(called)))}
    return [numbers[name] for name in called], tuple(str(name) for name in numbers)


def _are_numbers(given: Any) -> bool:
    return isinstance(given, np.ndarray) and cast(Any, given).dtype.kind in "biufc"


def _without_pandas(given: Any) -> Any:
    """What pandas has as an array of its own: torch takes it in part, and what pandas lends may not be written to."""
    return np.array(given.to_numpy()) if hasattr(given, "to_numpy") else given


def _in_memory(given: Any) -> Tensor:
    """``given`` as numbers on the CPU, without the computation that led to them: gradients would flow back into it."""
    array = _without_pandas(given)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSUTM":
        array = _numbers(given, cast(Any, array))
    tensor = torch.as_tensor(array).detach()
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "torch.nested" if tensor.is_nested else tensor.layout
        raise ValueError(f"got a tensor of layout {layout}, whose rows cannot be taken; to_dense() or padding helps")
    return tensor.cpu()


def _numbers(given: Any, array: "np.ndarray[Any, np.dtype[Any]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Of columns that are not all of numbers, the numbers. Raises ValueError that names the first that is none."""
    columns = list(getattr(given, "columns", ()))
    for place, each in np.ndenumerate(array):
        # A gap is told later, with the others.
        if isinstance(each, bool | int | float | np.number | np.bool_) or each is None:
            continue
        column = repr(columns[place[1]]) if len(place) == 2 and columns else ", ".join(map(str, place[1:]))
        where = f" holds {each!r} in column {column}" if column else f" is {each!r}"
        raise ValueError(
            f"sample {place[0]}{where}, which is no number. Give each value of a feature a column of 0 and 1, the same "
            "columns at every site; a gap is filled, or its sample taken away"
        )
    return array.astype(np.float64)


def checked(data: str, samples: Samples) -> Samples:
    """``samples``, if there are any, each of finite numbers and with one class number that is not negative."""
    inputs, targets = samples.inputs, samples.targets
    if targets.ndim != 1 or not inputs.ndim or len(inputs) != len(targets) or not len(samples):
        shapes = f"inputs of shape {tuple(inputs.shape)} and classes of shape {tuple(targets.shape)}"
        raise DataError(f"data {data!r}: expected at least one sample and one class for each, got {shapes}")
    if int(samples.targets.min()) < 0:
        raise DataError(f"data {data!r}: classes are numbered from 0, got {int(samples.targets.min())}")
    if samples.inputs.is_floating_point():
        _check_finite(data, samples.inputs)
    return samples


def _check_whole(data: str, targets: Tensor) -> None:
    """Raises `DataError` for scores and likelihoods, which would be cut to whole numbers without a word."""
    if targets.is_complex():
        raise DataError(f"data {data!r}: classes are {targets.dtype}; expected whole numbers from 0")
    if not targets.is_floating_point() or targets.ndim != 1:
        return
    # NaN, too, is unlike what it is rounded to.
    broken = (targets != targets.round()) | ~targets.isfinite()
    if bool(broken.any()):
        number = int(broken.nonzero()[0])
        raise DataError(
            f"data {data!r}: sample {number} has class {targets[number].item():g}; classes are whole numbers from 0. "
            "Round them, if that is meant, or give each the number of its class"
        )


def _check_finite(data: str, inputs: Tensor) -> None:
    broken = (~inputs.float().isfinite()).unsqueeze(1).flatten(1).any(1).nonzero().flatten()
    if len(broken):
        raise DataError(
            f"data {data!r}: sample {int(broken[0])} holds NaN, infinity or more than float32 can (samples are "
            f"counted from 0); {len(broken)} of {len(inputs)} do. Fill the gaps, or take these samples away"
        )
