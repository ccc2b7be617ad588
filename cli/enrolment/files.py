"""Files of a federation: private ones that only their owner reads, and settings in TOML with strict keys."""

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cli.toml import read_toml, toml_in
from strategies.errors import OperatorError, SettingsError
from strategies.explain import problems
from strategies.files import partial_of, room_for, settle, write_bytes

PRIVATE_FOLDER, PRIVATE_FILE, PUBLIC_FILE = 0o700, 0o600, 0o644


class FileSettings(BaseModel, frozen=True):
    """Settings in a file: field names with ``-`` for ``_`` are its keys."""

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )
    patterns: ClassVar[Mapping[str, str]] = {}
    """Its regular expressions in words."""


S = TypeVar("S", bound=FileSettings)


@contextmanager
def writing(path: Path, advice: str, error: type[OperatorError]) -> Generator[None]:
    """Raises ``error``, with what to do, where what happens inside cannot read or write a file of ``path``."""
    try:
        yield
    except OSError as problem:
        where = problem.filename or path
        raise error(f"{where}: cannot be read or written: {problem.strerror}; {advice}") from problem


def private_folder(path: Path) -> Path:
    """``path``, made if need be, that only its owner may enter."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)
    return path


def write_private(path: Path, content: bytes) -> Path:
    """Writes a file that only its owner may read, from its first byte on, and never over another one."""
    if not path.parent.exists():
        private_folder(path.parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with room_for(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # Half a key would be taken for one, and be in the way of the next try.
        path.unlink()
        raise
    return path


def write_public(path: Path, content: bytes) -> Path:
    """Replaces a file that anyone may read, whole or not at all."""
    write_bytes(path, content).chmod(PUBLIC_FILE)
    return path


def replace_together(private: Mapping[Path, bytes], public: Mapping[Path, bytes]) -> None:
    """Replaces files that are of use together alone; where one does not fit on the disk, all stay as they were.

    The private ones come first, so that who sees a new public one finds them new too.
    """
    aside = {path: partial_of(path) for path in (*private, *public)}
    try:
        for path, content in private.items():
            aside[path].unlink(missing_ok=True)
            write_private(aside[path], content)
        for path, content in public.items():
            with room_for(path):
                aside[path].write_bytes(content)
            aside[path].chmod(PUBLIC_FILE)
        for path, partial in aside.items():
            settle(partial, path)
    finally:
        for partial in aside.values():
            partial.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Waits until no other process is in such a block for ``folder``, in which it leaves nothing."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def parsed(model: type[S], values: Mapping[str, object], place: str = "") -> S:
    """The settings that ``values`` are, which stand at ``place``.

    Raises `SettingsError` that names each wrong key, with the nearest known key, or what was expected and got.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(place + line for line in problems(error, model, model.patterns))) from None


def read_settings(path: Path, model: type[S]) -> S:
    """The settings in a TOML file. Raises `SettingsError` as `parsed` does, or where it is no such file."""
    return parsed(model, read_toml(path), f"{path}: ")


def settings_in(content: bytes, path: Path, model: type[S]) -> S:
    """The settings in what was read from ``path``. Raises `SettingsError` as `read_settings` does."""
    return parsed(model, toml_in(content, path), f"{path}: ")
