"""Data of a site's own, as docs/site-guide.md says it may be: a folder of images, and a function that reads a table."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

WARD = """
import numpy as np, pandas as pd

def samples():
    table = pd.read_csv({table!r})
    inputs = table.drop(columns="outcome").to_numpy(np.float32).reshape(-1, 1, 8, 8)
    return inputs, table["outcome"].to_numpy(np.int64)
"""


def digits() -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[int]]:
    """Grey levels 0..16 of 64 pixels for each image, and its class."""
    bunch = cast(Any, load_digits())
    return np.asarray(bunch.data, np.float64), [int(label) for label in bunch.target]


def write_images(folder: Path, first: int, last: int) -> Path:
    """Some of scikit-learn's digits as grey images, one folder for each class."""
    images, labels = digits()
    for number in range(first, last):
        place = folder / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (images[number].reshape(8, 8) * 15).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def write_ward(code: Path, table: Path, first: int, last: int) -> str:
    """Some of them as a table and a function that reads it; what ``data`` must say."""
    images, labels = digits()
    rows = np.column_stack([images[first:last] / 16, labels[first:last]])
    header = ",".join([*(f"p{number}" for number in range(64)), "outcome"])
    np.savetxt(table, rows, delimiter=",", header=header, comments="")
    code.mkdir(parents=True, exist_ok=True)
    (code / "ward.py").write_text(WARD.format(table=str(table)))
    return "ward:samples"
