"""One torch thread; networks that a test draws are the same every time; shapes in `alignment` checked at every call."""

import os

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Before any test imports them: what is imported already is not checked.
install_import_hook("alignment", "beartype.beartype")


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """What a test draws without a generator of its own does not depend on the tests before it."""
    import torch

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
