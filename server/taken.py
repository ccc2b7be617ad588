"""Whether a network will do for a run, as built and by whichever weights: before anybody trains."""

import torch
from torch import Tensor, nn

from alignment.tracing.bench import seeded
from alignment.tracing.switches import in_mode
from models import Architecture, example_inputs, not_taken
from server.carried import check_carried
from server.heads import check_head
from server.shared import check_shared
from strategies.errors import SettingsError
from strategies.settings import Settings


def check_network(model: nn.Module, settings: Settings) -> Tensor:
    """The samples that ``model`` is traced with, if the run of ``settings`` can send, ask and merge it.

    Raises `SettingsError`. In this order: each check trusts those before it.
    """
    check_carried(model)
    inputs = _check_taken(model, settings)
    check_head(model, settings)
    check_shared(model, settings)
    return inputs


def _check_taken(model: nn.Module, settings: Settings) -> Tensor:
    """The samples that ``model`` is traced with, if it gives a number for each of their classes.

    Sites give it floats in single precision, whatever the example holds, and so does this. Raises `SettingsError`.
    """
    architecture = Architecture(*settings.network)
    (inputs,) = example_inputs(architecture)
    answer = _answer(model, architecture, inputs.float() if inputs.is_floating_point() else inputs)
    if not isinstance(answer, Tensor):
        raise SettingsError(
            f"setting 'model': {settings.model!r} answers with {type(answer).__name__}, expected one tensor (samples, "
            "classes). Wrap it in a module whose forward returns the logits alone"
        )
    if tuple(answer.shape) != (expected := (len(inputs), settings.classes)):
        raise SettingsError(
            f"setting 'classes': model {settings.model!r} answers {len(inputs)} samples with {tuple(answer.shape)}, "
            f"expected {expected}: one output for each class"
        )
    return inputs


def _answer(model: nn.Module, architecture: Architecture, inputs: Tensor) -> object:
    """What ``model`` puts out in eval mode, which it is in here alone."""
    try:
        with seeded(model), in_mode(model, training=False), torch.no_grad():
            return model(inputs)
    except Exception as error:
        raise SettingsError(
            f"setting 'shape': {not_taken(architecture, inputs, error, _other_dtypes(model))}"
        ) from error


def _other_dtypes(model: nn.Module) -> list[str]:
    """The dtypes of floating parameters other than single precision, which samples have."""
    dtypes = {each.dtype for each in model.parameters() if each.is_floating_point()} - {torch.float32}
    return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
