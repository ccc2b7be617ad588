"""Samples of a folder or file of images or parquet, as `datasets` reads it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value
from datasets import load_dataset as untyped_load_dataset  # pyright: ignore[reportUnknownVariableType]

from client.folders import how_to_read
from client.sources import DataError, Samples
from strategies.files import out_of_sight

load_dataset = cast(Callable[..., object], untyped_load_dataset)


LABEL = "label"
# What images are turned into whose numbers are no shades: indices into a palette, and 0 and 1, which is nearly black.
WITHOUT_SHADES = {"P": "RGB", "1": "L"}


def read_table(path: Path) -> Samples:
    """All samples of ``path``. Raises `DataError` that says what was looked for and where."""
    if why := out_of_sight(path):
        raise DataError(f"data {str(path)!r}: {why}")
    if not path.exists():
        raise DataError(
            f"data {str(path)!r}: no such file or folder. Expected 'digits', 'module:function', or a path that "
            "datasets.load_dataset reads: a folder of parquet files, or of images in one folder per class."
        )
    table = _load(path)
    image, label = _columns(path, table)
    labels = list(cast(Iterable[int | None], table[label]))
    if None in labels:
        raise DataError(
            f"data {str(path)!r}: sample {labels.index(None)} has nothing in the label column {label!r}. Give it a "
            "class, or take it away"
        )
    pixels = _all_pixels(path, table, image)
    shapes = [each.shape for each in pixels]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise DataError(
                f"data {str(path)!r}: image {number} is {_size(shape)}, image 0 is {_size(shapes[0])}; expected all of "
                "one size and mode. Resize or convert them first."
            )
    names = getattr(cast(Mapping[str, object], table.features)[label], "names", None) or ()
    return Samples(torch.from_numpy(np.stack(pixels)), torch.tensor(labels, dtype=torch.int64), tuple(names))


def _size(shape: tuple[int, ...]) -> str:
    return "channels x height x width " + "x".join(str(size) for size in shape)


def _load(path: Path) -> Dataset:
    try:
        name, options = ("parquet", {"data_files": str(path)}) if path.is_file() else how_to_read(path)
        loaded = load_dataset(str(name), **options)
    except DataError:
        raise
    except Exception as error:
        # Its own words are "An error occurred"; what it was, such as a full disk, is the cause.
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        # Which of its columns are features, and what is done to them first, a file does not say.
        other = (
            ". A file is read as parquet with images; read CSV and other tables by a function of yours: data = "
            "'module:function'"
        )
        told = other if path.is_file() and path.suffix.lower() != ".parquet" else ""
        raise DataError(f"data {str(path)!r}: datasets.load_dataset failed: {reason}{told}") from error
    assert isinstance(loaded, DatasetDict)
    # A split of its own for testing is kept to itself: only training data is cut up over sites.
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


def _columns(path: Path, table: Dataset) -> tuple[str, str]:
    """The names of the image column and of the label column. Raises `DataError` unless there is one of each.

    The label is the column of that name; without it the one of `ClassLabel`s; without any the one of whole numbers.
    """
    features = cast(Mapping[str, object], table.features)
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    numbers = [name for name, feature in features.items() if isinstance(feature, Value) and _is_whole(feature)]
    labels = [LABEL] if LABEL in (*classes, *numbers) else classes or numbers
    if len(images) != 1 or len(labels) != 1:
        shown = ", ".join(f"{name} ({feature})" for name, feature in features.items())
        raise DataError(
            f"data {str(path)!r}: expected one image column and one label column of whole numbers, got {shown}. Of "
            f"several the label is the one that is named {LABEL!r}: rename it so, take the others away, or read the "
            "file by a function of yours: data = 'module:function'"
        )
    return images[0], labels[0]


def _is_whole(feature: Value) -> bool:
    return feature.dtype.startswith(("int", "uint"))


def _all_pixels(path: Path, table: Dataset, column: str) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    images = iter(cast(Iterable[object], table[column]))
    pixels: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    while True:
        try:
            image = next(images)
        except StopIteration:
            return pixels
        except Exception as error:
            raise DataError(
                f"data {str(path)!r}: image {_place(table, column, len(pixels))} cannot be read: {error}. "
                "Mend it, or take it away"
            ) from error
        pixels.append(_pixels(path, image))


def _place(table: Dataset, column: str, number: int) -> str:
    """The file of an image, or its number where it has none."""
    undecoded = cast(Mapping[str, Any], table.cast_column(column, Image(decode=False))[number])[column]
    return undecoded["path"] or str(number)


def _pixels(path: Path, image: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
    mode = getattr(image, "mode", "")
    if mode in WITHOUT_SHADES:
        image = cast(Any, image).convert(WITHOUT_SHADES[mode])
    array = np.asarray(image)
    if array.dtype != np.uint8:
        # Which part of a wider range matters, 12 bits or a window, the site alone knows.
        raise DataError(
            f"data {str(path)!r}: images of mode {mode!r} hold {array.dtype}, expected 8 bits a "
            "channel. Scale them to 0 to 255 first, or read them by a function of yours: data = 'module:function'"
        )
    if array.ndim not in (2, 3):
        raise DataError(f"data {str(path)!r}: expected images of two or three axes, got shape {array.shape}")
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
