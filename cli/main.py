"""The command ``fedrebasin``."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli.late import Late, group_with
from cli.output import people, progress
from cli.server import app as server
from cli.site import app as site
from strategies.errors import OperatorError

app = typer.Typer(
    name="fedrebasin",
    cls=group_with(
        Late("demo"),
        Late("settings"),
        Late("inspect", no_args_is_help=True),
        Late("merge", no_args_is_help=True),
        Late("barrier", no_args_is_help=True),
        Late("exporter"),
        Late("watch", no_args_is_help=True),
    ),
    help="Federated learning that aligns networks before it averages them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(server, name="server")
app.add_typer(site, name="site")


def _tell_version(asked: bool) -> None:
    if asked:
        people.print(f"fedrebasin {version('fedrebasin')}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and nothing else."),
    ] = False,
) -> None:
    """Federated learning that aligns networks before it averages them."""
    _search_current_folder()


def main() -> None:
    """Runs the command; a wrong set-up ends with its own exit code."""
    try:
        app()
    except OperatorError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if not _is_of_networks(error):
            raise
        _fail(str(error), OperatorError.exit_code)


def _search_current_folder() -> None:
    """A console script does not look there for modules, though that is where people keep theirs; ours come first."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _is_of_networks(error: Exception) -> bool:
    """Whether it tells what is wrong with a network; torch is imported for that where something went wrong alone."""
    from alignment import AlignmentError
    from models.errors import ModelError

    return isinstance(error, ModelError | AlignmentError)


def _fail(text: str, code: int) -> None:
    progress.print(f"fedrebasin: {text}", style="red", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)
