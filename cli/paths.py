"""Files that commands write: refused before the work, not after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from strategies.errors import OperatorError
from strategies.files import out_of_sight


class OutputError(OperatorError):
    """What a command would write is there already, is an input, or cannot be written."""

    exit_code = 18


def check_output(path: Path, force: bool) -> None:
    """Raises `OutputError` when ``path`` is there and is not to be replaced, or its folder cannot be."""
    if why := out_of_sight(path):
        raise OutputError(f"{path}: {why}")
    if path.is_dir():
        raise OutputError(f"{path}: a folder; name a file in it")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: choose another name, or add --force to replace it")
    parent = next(folder for folder in (path.absolute().parents) if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is a file, expected a folder")


def check_network_output(path: Path, inputs: Sequence[Path], force: bool) -> None:
    """`check_output` for a network and the card beside it."""
    if path.suffix != ".safetensors":
        raise OutputError(f"{path}: networks are written as safetensors: -o {path.with_suffix('.safetensors')}")
    if path.resolve() in [each.resolve() for each in inputs]:
        raise OutputError(f"{path} is one of the inputs: the card names them by their hashes, so keep them")
    for written in (path, *cards_of(path)):
        check_output(written, force)


def cards_of(path: Path) -> tuple[Path, Path]:
    """The card beside a network, for people and for scripts."""
    return path.with_suffix(".md"), path.with_suffix(".json")


def picture_form(path: Path) -> Literal["svg", "png"]:
    """Raises `OutputError` unless the suffix is one of the two."""
    match path.suffix.lower():
        case ".svg":
            return "svg"
        case ".png":
            return "png"
        case _:
            raise OutputError(f"--plot {path}: expected a name that ends in .svg or .png")


def labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each file: its own, with as many folders before it as tell it from the others."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]
