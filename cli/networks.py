"""From options, files and data to a network that runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from alignment import PermutationSpec, derive_spec
from alignment.batch_norm import batch_norms
from cli.errors import OptionError
from cli.room import shortfall
from client.sources import Samples, describe_samples, scaled
from models import FAMILIES, Architecture, build, example_inputs
from models.errors import ModelError
from models.imported import import_function
from models.inferred import MADE_UP, infer, inputs_taken
from strategies.checkpoints import read_checkpoint
from strategies.errors import OperatorError
from strategies.files import sha256_of

State = Mapping[str, Tensor]
# Torch counts in 64 bits.
MOST = 2**63
TRACE_ALL = "give an --example whose forward uses all heads, or a --model whose forward always does"
EXAMPLE = " with a function that returns its inputs"
HOW_TO_GIVE_DATA = "Give data of the kind that it was trained on"


class FitError(OperatorError):
    """A file's tensors are not those of the network, or the network does not take the inputs."""

    exit_code = 17


@dataclass(frozen=True)
class Description:
    """The network as the options say it; empty and 0: not said."""

    model: str
    shape: str = ""
    classes: int = 0
    width: int = 0
    depth: int = 0
    norm: str = ""
    example: str = ""


@dataclass(frozen=True)
class NetworkFile:
    """A safetensors file and what it holds."""

    path: Path
    sha256: str
    state: State

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}


@dataclass(frozen=True)
class Network:
    """A network, how it was described, and inputs that it has been seen to take.

    n_outputs         of one sample; 0 where it is answered with anything but one row
    shape_is_a_guess  of convolutions and of sequences the weights do not tell it, and nothing else does
    """

    architecture: Architecture
    module: nn.Module
    example: tuple[Any, ...]
    n_outputs: int
    shape_is_a_guess: bool = False

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has BatchNorm statistics, which a mean of networks leaves stale."""
        return bool(batch_norms(self.module))

    @property
    def known(self) -> Architecture:
        """The architecture, whose classes are the network's outputs where nothing else told them; 0: nor do these."""
        return replace(self.architecture, classes=self.architecture.classes or self.n_outputs)

    def derive(self) -> PermutationSpec:
        """Its permutation spec, proved."""
        return derive_spec(self.module, self.example)


def read_file(path: Path) -> NetworkFile:
    """Raises `CheckpointError` when ``path`` is no readable safetensors file."""
    state = read_checkpoint(path)
    return NetworkFile(path, sha256_of(path), state)


def find_network(
    said: Description, file: NetworkFile | None = None, samples: Samples | None = None, seed: int = 0
) -> Network:
    """The network that ``said`` names, with what it leaves open taken from the data and from the shapes in ``file``.

    Raises `ModelError` for a name that is unknown and for what the family cannot be, `OptionError` when what is said
    does not suffice, or there is no room for it, `FitError` when the network does not run on its inputs, or has other
    classes than the data.
    """
    architecture = _architecture(said, file, samples)
    _check_data(said, file, samples)
    if lacking := shortfall(architecture):
        raise OptionError(f"--model, --width, --depth, --shape and --classes: {lacking}")
    module = build(architecture, seed).eval()
    example = _example(said, architecture, samples, seed)
    is_a_guess = said.model in MADE_UP and not said.shape and not said.example and samples is None
    outputs = _run(architecture, module, example, _how_to_say_inputs(said, file, samples))
    n_outputs = int(outputs.shape[1]) if isinstance(outputs, Tensor) and outputs.ndim == 2 else 0
    network = Network(architecture, module, example, n_outputs, is_a_guess)
    if samples is not None:
        check_samples(network, samples, "the data")
    return network


def check_samples(network: Network, samples: Samples, what: str) -> None:
    """Raises `FitError` unless ``network`` runs on ``samples``, called ``what``, and has an output for each class."""
    architecture, inputs = network.architecture, scaled(samples.inputs[:2])
    remedy = f"{what} must be what the network takes"
    outputs = _run(architecture, network.module, (inputs,), remedy)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
        raise FitError(
            f"{describe(architecture)} returns {_kind(outputs)} for {len(inputs)} samples of {what}; expected one "
            "tensor (samples, classes). Wrap it in a module whose forward returns that"
        )
    n_outputs, greatest = outputs.shape[1], int(samples.targets.max())
    if greatest >= n_outputs:
        raise FitError(
            f"{what} has class {greatest}, but {describe(architecture)} has {n_outputs} outputs, for classes from 0"
        )
    if samples.names and len(samples.names) != n_outputs:
        # Numbered by their order, a class that the data lack would move all others.
        raise FitError(
            f"{what} has {len(samples.names)} classes, {', '.join(samples.names)}, but {describe(architecture)} has "
            f"{n_outputs} outputs; name all, in the order of the outputs, with --class-names"
        )


def describe(architecture: Architecture) -> str:
    """The architecture in words, such as ``mlp (shape 1x8x8, classes 10, width 512, depth 3)``."""
    shape = "x".join(str(size) for size in architecture.shape)
    named = {"shape": shape, "classes": architecture.classes, "width": architecture.width}
    named |= {"depth": architecture.depth, "norm": architecture.norm}
    told = ", ".join(f"{name} {value}" for name, value in named.items() if value)
    return f"{architecture.model} ({told})" if told else architecture.model


def _architecture(said: Description, file: NetworkFile | None, samples: Samples | None) -> Architecture:
    _require_known(said.model)
    unknown = Architecture(said.model, (), 0)
    found = (infer(said.model, file.shapes) if file is not None else None) or unknown
    if samples is not None:
        _, classes = describe_samples(samples)
        found = replace(found, shape=tuple(samples.inputs.shape[1:]), classes=found.classes or classes)
    asked = Architecture(said.model, _sizes(said.shape), said.classes, said.width, said.depth, said.norm)
    settled = replace(
        found,
        shape=asked.shape or found.shape,
        classes=asked.classes or found.classes,
        width=asked.width or found.width,
        depth=asked.depth or found.depth,
        norm=asked.norm or found.norm,
    )
    if not settled.shape and not said.example:
        raise OptionError(f"model {said.model!r}: say what one input looks like: --shape 3x32x32, or --example")
    if not settled.classes and ":" not in said.model:
        raise OptionError(f"model {said.model!r}: say how many outputs it has: --classes 10")
    return settled


def _check_data(said: Description, file: NetworkFile | None, samples: Samples | None) -> None:
    """Raises `FitError` where the data's shape, which a network would be built for, is none that the file's takes."""
    takes = _taken(said.model, file)
    if not takes or file is None or samples is None or said.shape or said.example:
        return
    if inputs_taken(said.model, samples.inputs.shape[1:]) != takes:
        raise FitError(
            f"the data does not fit {file.path}: its samples are {_sized(samples)}, but the network there takes "
            f"{takes}. {HOW_TO_GIVE_DATA}"
        )


def _taken(model: str, file: NetworkFile | None) -> str:
    """What the network in ``file`` takes, as far as its weights tell."""
    found = infer(model, file.shapes) if file is not None else None
    return inputs_taken(model, found.shape) if found is not None else ""


def _how_to_say_inputs(said: Description, file: NetworkFile | None, samples: Samples | None) -> str:
    """What to do where the network does not run on what the options, the data or else the weights gave."""
    takes = _taken(said.model, file)
    but = f"; the weights in {file.path} take {takes}" if takes and file is not None else ""
    if said.example:
        return f"These are what --example {said.example} returns{but}. Let it return inputs that the network takes"
    if samples is not None:
        and_shape = f", and --shape {said.shape} was given" if said.shape else ""
        fits = takes and takes == inputs_taken(said.model, samples.inputs.shape[1:])
        advice = "" if fits else f". {HOW_TO_GIVE_DATA}"
        advice += ". Leave out --shape, which is then the data's" if said.shape else ""
        return f"The data's samples are {_sized(samples)}{and_shape}{but}{advice}"
    if said.shape:
        return f"--shape {said.shape} was given{but}. Give the shape that the network takes, or --example{EXAMPLE}"
    return f"Give --shape, or --example{EXAMPLE}"


def _sized(samples: Samples) -> str:
    return "x".join(str(size) for size in samples.inputs.shape[1:]) or "single numbers"


def _require_known(model: str) -> None:
    """Raises `ModelError` for a name that nothing goes by: it is wrong whatever else the options say."""
    if ":" in model:
        import_function(model)
    elif model not in FAMILIES:
        build(Architecture(model, (), 0), seed=0)


def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape.split("x")) if shape else ()
    except ValueError:
        sizes = (0,)
    if not all(0 < size < MOST for size in sizes):
        raise OptionError(f"--shape {shape!r}: expected sizes with x between them, such as 3x32x32")
    return sizes


def _example(said: Description, architecture: Architecture, samples: Samples | None, seed: int) -> tuple[Any, ...]:
    if said.example:
        return _given(said.example)
    if samples is not None:
        return (scaled(samples.inputs[:2]),)
    try:
        return example_inputs(architecture, seed)
    except RuntimeError as error:
        raise OptionError(f"--shape {said.shape!r}: two such samples cannot be made: {error}") from error


def _given(example: str) -> tuple[Any, ...]:
    """What the function ``module:function`` of the user's returns."""
    try:
        given = import_function(example, "--example")()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"--example {example!r}: expected a function that takes nothing and returns the tuple of inputs; it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    return tuple(cast(Sequence[Any], given)) if isinstance(given, tuple | list) else (given,)


def _run(architecture: Architecture, module: nn.Module, example: tuple[Any, ...], remedy: str) -> object:
    try:
        with torch.no_grad():
            return module(*example)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves(example) if isinstance(t, Tensor))
        raise FitError(
            f"{describe(architecture)} does not run on inputs of shape {shapes}: {error}. {remedy}"
        ) from error


def _kind(outputs: object) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {'x'.join(str(size) for size in outputs.shape) or '()'}"
    if isinstance(outputs, Mapping):
        return "dict with " + ", ".join(repr(key) for key in cast(Mapping[object, object], outputs))
    if isinstance(outputs, tuple | list):
        return f"{type(cast(object, outputs)).__name__} of {len(cast(Sequence[object], outputs))}"
    return type(outputs).__name__
