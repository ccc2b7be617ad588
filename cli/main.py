"""The command ``fedrebasin``."""

import sys

import typer

from alignment import AlignmentError
from cli.barrier import barrier
from cli.demo import demo
from cli.exporter import exporter
from cli.inspect import inspect
from cli.merge import merge
from cli.networks import search_current_folder
from cli.output import progress
from cli.server import app as server
from cli.settings import settings
from cli.site import app as site
from cli.watch import watch
from models.errors import ModelError
from strategies.errors import OperatorError

app = typer.Typer(
    name="fedrebasin",
    help="Federated learning that aligns networks before it averages them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo)
app.command()(settings)
app.command(no_args_is_help=True)(inspect)
app.command(no_args_is_help=True)(merge)
app.command(no_args_is_help=True)(barrier)
app.command()(exporter)
app.command(no_args_is_help=True)(watch)
app.add_typer(server, name="server")
app.add_typer(site, name="site")


@app.callback()
def root() -> None:
    """Federated learning that aligns networks before it averages them."""
    search_current_folder()


def main() -> None:
    """Runs the command; a wrong set-up ends with its own exit code."""
    try:
        app()
    except OperatorError as error:
        _fail(str(error), error.exit_code)
    except (ModelError, AlignmentError) as error:
        _fail(str(error), OperatorError.exit_code)


def _fail(text: str, code: int) -> None:
    progress.print(f"fedrebasin: {text}", style="red", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)
