"""Tables of numbers, one row a sample, as sites would read them: a run's ``data``. All come with scikit-learn."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from sklearn import datasets

sklearn = cast(Any, datasets)
Table = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
N_RARE = 6000


def breast_cancer() -> Table:
    """569 patients, 30 measures of their cells' nuclei, and whether the tumour is malignant (0) or benign (1)."""
    return _table(sklearn.load_breast_cancer())


def wine() -> Table:
    """178 wines, 13 measures, three growers."""
    return _table(sklearn.load_wine())


def rare() -> Table:
    """6,000 made-up rows of 20 features; about 15 of 100 are of class 1, and 3 of 100 have a class drawn anew."""
    inputs, targets = sklearn.make_classification(
        n_samples=N_RARE,
        n_features=20,
        n_informative=8,
        n_redundant=4,
        n_clusters_per_class=3,
        weights=[0.85],
        flip_y=0.03,
        random_state=0,
    )
    return _standardised(np.asarray(inputs)), np.asarray(targets, np.int64)


def _table(bunch: Any) -> Table:
    return _standardised(np.asarray(bunch.data)), np.asarray(bunch.target, np.int64)


def _standardised(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Each feature less its mean over its deviation, both of all rows: the same at every site."""
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32)
