"""One torch thread; networks that a test draws are the same every time; shapes in `alignment` checked at every call."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.shapes import check_shapes

if TYPE_CHECKING:
    from tests.inprocess import Played

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start, and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test imports them: what is imported already is not checked.
check_shapes("alignment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take long come first, then the largest: begun last, one would be waited for alone."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, -tests[item.path]))


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """What a test draws without a generator of its own does not depend on the tests before it."""
    import torch

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> "Played":
    """What runs left, by the changes to their settings."""
    from tests.inprocess import Played

    return Played(tmp_path_factory.mktemp("played"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte; skips where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the rights of root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
