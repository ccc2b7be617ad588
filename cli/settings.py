"""``fedrebasin settings``: a run config, read as a run would read it, before a run is started."""

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Format, print_json, print_table
from strategies.errors import SettingsError
from strategies.settings import parse_settings


def settings(
    file: Annotated[
        Path | None, typer.Argument(help="A TOML file for `flwr run --run-config FILE`; without one, the defaults.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to answer.")] = Format.TABLE,
) -> None:
    """Show what every setting of a run would be, or say what is wrong with a run config."""
    found = parse_settings(read_run_config(file) if file is not None else {}).model_dump(by_alias=True)
    if output is Format.JSON:
        print_json(found)
    else:
        rows = [(key, str(value).lower() if isinstance(value, bool) else str(value)) for key, value in found.items()]
        print_table(str(file or "defaults"), ("setting", "value"), rows, texts=("value",))


def read_run_config(file: Path) -> dict[str, object]:
    """The keys and values of a TOML file. Raises `SettingsError` when it is none."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f'{file}: not TOML: {error}; expected lines such as  rounds = 5  or  split = "iid"'
        ) from error
