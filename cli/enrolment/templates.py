"""Files that are made from the templates in ``deploy/``."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cli.enrolment.errors import EnrolmentError

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"


def render(name: str, **values: object) -> bytes:
    """The template ``name`` below ``deploy/`` with ``values`` in it. Each value must be there."""
    if not (DEPLOY / name).is_file():
        raise EnrolmentError(f"no {name} in {DEPLOY}: run from a clone of the project, installed with `make install`")
    # What comes out is configuration, not HTML. Values are patterns of ours or numbers: nothing to escape.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(DEPLOY), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(name).render(**values).encode()
