"""Settings in files that people write."""

import tomllib
from pathlib import Path

from strategies.errors import SettingsError


def read_toml(path: Path) -> dict[str, object]:
    """The keys and values of a TOML file. Raises `SettingsError` when it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f'{path}: not TOML: {error}; expected lines such as  number = 5  or  name = "text"  in UTF-8'
        ) from error
