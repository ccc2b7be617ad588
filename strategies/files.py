"""Files that are whole or absent: written aside, synced, renamed."""

import errno
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from strategies.errors import OperatorError

FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskError(OperatorError):
    """A disk is full, or a quota is reached."""

    exit_code = 21


def write_text(path: Path, text: str, synced: bool = True) -> Path:
    """Replaces the file by ``text``. Raises `DiskError` where there is no room.

    Not ``synced``, a loss of power may leave it empty: for what is soon written anew.
    """
    return write_bytes(path, text.encode(), synced)


def write_bytes(path: Path, content: bytes, synced: bool = True) -> Path:
    """Replaces the file by ``content``. Raises `DiskError` where there is no room."""
    partial = partial_of(path)
    with room_for(path, partial):
        partial.write_bytes(content)
        return settle(partial, path) if synced else partial.replace(path)


def append_line(path: Path, line: str) -> None:
    """Adds a line at the end of the file, synced, or nothing. Raises `DiskError` where there is no room."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with room_for(path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except DiskError:
        os.truncate(path, before)
        raise


def partial_of(path: Path) -> Path:
    """Where ``path`` is written aside, in its folder, which is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.partial")


def settle(partial: Path, path: Path) -> Path:
    """Gives what was written aside its name, once it would outlive a loss of power."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    # The new name, too, must outlive a loss of power.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


@contextmanager
def room_for(path: Path, partial: Path | None = None) -> Generator[None]:
    """Raises `DiskError`, naming ``path``, when what happens inside finds the disk full; ``partial`` goes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error)
        if number not in FULL:
            raise
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise DiskError(
            f"{path}: {os.strerror(number or 0)}. Nothing that was written before is lost. Free some room there, and "
            "say the same again. A run that is started under the same name resumes; a lower keep-checkpoints takes less"
        ) from error


def _number(error: SafetensorError) -> int | None:
    """The number of the error of the operating system that safetensors met, which it tells in words alone."""
    said = str(error)
    return next((number for number in FULL if f"(os error {number})" in said), None)


def numbered(folder: Path, stem: str) -> dict[Path, int]:
    """The files ``stem``NUMBER.safetensors of ``folder``, and their numbers; as text 10000 comes before 9999."""
    numbers = {path: path.stem.removeprefix(stem) for path in folder.glob(f"{stem}*.safetensors")}
    return {path: int(number) for path, number in numbers.items() if number.isdigit()}


def out_of_sight(path: Path) -> str:
    """Why it cannot be told whether anything is at ``path``, such as a folder that may not be entered; else empty.

    `Path.exists`, `is_file` and `is_dir` raise an error then, unlike where there is nothing.
    """
    try:
        path.exists()
    except OSError as error:
        return f"cannot be looked at: {error.strerror}; may this user enter every folder on the way?"
    return ""


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Of a safetensors file these depend on the tensors alone, not their order."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
