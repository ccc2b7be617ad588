"""Files of tensors, as `strategies.files` has those of text. A module of its own: it takes torch to import."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from strategies.files import partial_of, room_for, settle


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Replaces the file by ``state``, as safetensors. Raises `DiskError` where there is no room."""
    partial = partial_of(path)
    with room_for(path, partial):
        _save(state, partial)
        return settle(partial, path)


@contextmanager
def tensors_aside(path: Path, state: Mapping[str, Tensor], others: Sequence[Path]) -> Generator[Path]:
    """Writes ``state`` aside, and gives it the name ``path`` after the block; where the block fails, nothing is left.

    ``others`` are files that say what ``path`` holds. The block may write them aside, with `write_aside`: they get
    their names together with it. Old files of these names are removed before that, so that none ever stands beside
    tensors that it does not tell of.
    """
    partials = {each: partial_of(each) for each in (path, *others)}
    try:
        with room_for(path):
            _save(state, partials[path])
            yield partials[path]
            for other in others:
                other.unlink(missing_ok=True)
            for each, partial in partials.items():
                settle(partial, each)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def write_aside(path: Path, text: str) -> None:
    """Writes what `tensors_aside` will call ``path``."""
    partial_of(path).write_text(text, encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file."""
    return load_file(path)


def _save(state: Mapping[str, Tensor], partial: Path) -> None:
    partial.touch()
    mode = partial.stat().st_mode
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    # safetensors makes a file for its owner alone; who reads a run is for its folder and the umask to say.
    partial.chmod(mode)
