"""Settings in files that people write."""

import re
import tomllib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from strategies.errors import SettingsError


def read_toml(path: Path) -> dict[str, object]:
    """The keys and values of a TOML file. Raises `SettingsError` when it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    return toml_in(content, path)


def toml_in(content: bytes, path: Path) -> dict[str, object]:
    """The keys and values of what was read from ``path``. Raises `SettingsError` when it is no TOML."""
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f'{path}: not TOML: {error}; expected lines such as  number = 5  or  name = "text"  in UTF-8'
        ) from error


@contextmanager
def settings_of(path: Path | None, replaced: Collection[str] = ()) -> Generator[None]:
    """What is said of settings in the file at ``path`` begins as compilers begin it: with file, line and a colon.

    What is said of a setting that does not stand there, or that is ``replaced``, is left as it is: it came with an
    option.
    """
    try:
        yield
    except SettingsError as error:
        if path is None:
            raise
        lines = {key: line for key, line in _lines_of_keys(path).items() if key not in replaced}
        raise SettingsError("\n".join(_placed(said, path, lines) for said in str(error).splitlines())) from error


def _lines_of_keys(path: Path) -> dict[str, int]:
    found = (re.match(r"""\s*["']?([\w-]+)["']?\s*=""", line) for line in path.read_text("utf-8").splitlines())
    return {key[1]: number for number, key in enumerate(found, 1) if key}


def _placed(said: str, path: Path, lines: dict[str, int]) -> str:
    # Of two settings that contradict each other both are named, and one of them may be the default.
    key = next((word for word in re.findall(r"[\w-]+", said) if word in lines), None)
    return said if key is None else f"{path}:{lines[key]}: {said}"
