"""Every setting of a run, parsed once from Flower's flat run config.

Server and sites read the same table, so that a misspelt key stops the run at its first line on both sides.
`pyproject.toml` repeats the defaults under ``[tool.flwr.app.config]``, because `flwr run --run-config` overrides
only keys that stand there; a test keeps the two equal.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from strategies.errors import SettingsError

type_names = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
}


class Settings(BaseModel, frozen=True):
    """One run's settings. Field names with ``-`` for ``_`` are the keys of the run config.

    A ``width`` or ``depth`` of 0 and a ``norm`` of "" leave the choice to the network's family.
    """

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"))

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    runs_dir: str = "runs"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rounds: Annotated[int, Field(ge=1)] = 3
    min_sites: Annotated[int, Field(ge=1)] = 2
    round_deadline_seconds: Annotated[float, Field(gt=0)] = 3600.0
    join_deadline_seconds: Annotated[float, Field(gt=0)] = 600.0

    model: str = "resnet20"
    shape: Annotated[str, Field(pattern=r"^\d+(x\d+)*$")] = "1x8x8"
    classes: Annotated[int, Field(ge=2)] = 10
    width: Annotated[int, Field(ge=0)] = 0
    depth: Annotated[int, Field(ge=0)] = 0
    norm: Literal["", "batch", "layer", "none"] = ""

    data: str = "digits"
    split: Literal["biased", "disjoint", "iid", "dirichlet"] = "biased"
    dirichlet_alpha: Annotated[float, Field(gt=0)] = 0.3
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2

    start: Literal["seed", "checkpoint", "shared"] = "seed"
    epochs: Annotated[int, Field(ge=1)] = 20
    later_epochs: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    later_learning_rate: Annotated[float, Field(gt=0)] = 0.02
    weight_decay: Annotated[float, Field(ge=0)] = 3e-3

    reference: str = "auto"
    restarts: Annotated[int, Field(ge=1)] = 5
    probe_points: Annotated[int, Field(ge=0)] = 25
    baselines: bool = False

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return tuple(int(size) for size in self.shape.split("x"))


def parse_settings(run_config: Mapping[str, object]) -> Settings:
    """The settings that ``run_config`` holds.

    Raises `SettingsError` that names each wrong key, with the nearest known key, or what was expected and got.
    """
    # TOML writes 1 for 1.0: an integer is welcome wherever a number is asked for.
    number_keys = {key for key, field in _fields().items() if field is float}
    config = {key: float(v) if key in number_keys and type(v) is int else v for key, v in run_config.items()}
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        problems = [_explain(str(e["loc"][0]), e["type"], e["msg"], e["input"]) for e in error.errors()]
        raise SettingsError("\n".join(problems)) from None


def default_config() -> dict[str, bool | int | float | str]:
    """The run config that says what the defaults say."""
    return Settings().model_dump(by_alias=True)


def _fields() -> dict[str, object]:
    return {str(field.alias): field.annotation for field in Settings.model_fields.values()}


def _explain(key: str, kind: str, message: str, got: object) -> str:
    if kind == "extra_forbidden":
        near = get_close_matches(key, _fields(), n=1, cutoff=0)
        return f"setting {key!r}: there is no such setting; the nearest is {near[0]!r}"
    expected = type_names.get(kind, message.removeprefix("Input should be "))
    return f"setting {key!r}: expected {expected}, got {got!r} ({type(got).__name__})"
