"""Settings in files that people write."""

import tomllib
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
