"""Files that are whole or absent: written aside, synced, renamed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor


def write_text(path: Path, text: str) -> Path:
    """Replaces the file by ``text``."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Replaces the file by ``content``."""
    partial = _partial(path)
    partial.write_bytes(content)
    return _settle(partial, path)


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Replaces the file by ``state``, as safetensors."""
    partial = _partial(path)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    return _settle(partial, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file."""
    return load_file(path)


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Of a safetensors file these depend on the tensors alone, not their order."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.partial")


def _settle(partial: Path, path: Path) -> Path:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    return partial.replace(path)
