"""The networks in files that settings name: read, and held against the run's own, before anybody trains."""

from pathlib import Path

from alignment.validate import not_finite
from strategies.checkpoints import CheckpointError, read_checkpoint
from strategies.protocol import State
from strategies.settings import Settings


def first_state(settings: Settings, like: State) -> State:
    """What goes out first: the file's that ``initial`` names, else ``like``. Raises `CheckpointError`."""
    return _read("initial", settings.initial, like) if settings.initial else like


def first_reference(settings: Settings, like: State) -> str | State:
    """What round 1 aligns to: of sites that start apart, that with most samples; else the network they start from.

    A path is that of a network in a safetensors file. Raises `CheckpointError` when it cannot be read, or is another
    network's. Where nothing is aligned the setting has no say: probes and searches start where they do by default.
    """
    if settings.reference_is_file:
        return _read("reference", settings.reference, like)
    if settings.led_by != "auto":
        return settings.led_by
    return "global" if settings.start == "shared" else "largest"


def _read(setting: str, path: str, like: State) -> State:
    try:
        found = read_checkpoint(Path(path))
    except CheckpointError as error:
        raise CheckpointError(f"setting {setting!r}: {error}") from error
    _check_like(setting, path, found, like)
    # A file has an order of tensors of its own; Flower's mods compare keys in order.
    return {name: found[name] for name in like}


def _check_like(setting: str, path: str, found: State, like: State) -> None:
    """Raises `CheckpointError` unless the file that a setting names holds the run's network: before anybody trains."""
    check_shapes(f"setting {setting!r}: {path}", found, like)
    for name, tensor in found.items():
        if tensor.dtype != like[name].dtype:
            raise CheckpointError(
                f"setting {setting!r}: {path}: tensor {name!r} is {tensor.dtype}, the run's network has "
                f"{like[name].dtype}; convert the file"
            )
    if broken := not_finite(found):
        raise CheckpointError(
            f"setting {setting!r}: {path}: tensor {broken!r} has NaN or infinite values: name another file"
        )


def check_shapes(where: str, found: State, like: State) -> None:
    """Raises `CheckpointError`, saying ``where``, unless the tensors of ``found`` are those of ``like``."""
    shapes, wanted = ({name: tuple(each.shape) for name, each in state.items()} for state in (found, like))
    if odd := sorted(set(shapes.items()) ^ set(wanted.items())):
        name = odd[0][0]
        raise CheckpointError(
            f"{where}: tensor {name!r} is {shapes.get(name, 'missing')}, the run's network has "
            f"{wanted.get(name, 'none of that name')}; name a file of the network that 'model' says"
        )
