"""From an architecture to a network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import cast

import torch
from torch import nn

from models.architecture import Architecture
from models.errors import ModelError
from models.gru import GRU
from models.imported import import_function
from models.mlp import MLP
from models.resnet import ResNet
from models.resnet20 import ResNet20
from models.transformer import Transformer
from models.vgg import VGG


@dataclass(frozen=True)
class Family:
    """A network we ship: usual width and depth, the depths and norms it can have (usual norm first)."""

    make: Callable[[Architecture], nn.Module]
    width: int
    depth: int
    depths: Sequence[int]
    norms: tuple[str, ...]


FAMILIES = {
    "mlp": Family(MLP, 512, 3, range(1, 101), ("none", "batch", "layer")),
    "vgg11": Family(VGG, 64, 11, (11,), ("batch", "layer", "none")),
    "vgg16": Family(VGG, 64, 16, (16,), ("batch", "layer", "none")),
    "resnet20": Family(ResNet20, 16, 20, range(8, 1203, 6), ("batch", "layer")),
    "resnet18": Family(ResNet, 64, 18, (18,), ("batch", "layer")),
    "resnet50": Family(ResNet, 64, 50, (50,), ("batch", "layer")),
    "gru": Family(GRU, 64, 1, range(1, 101), ("none",)),
    "transformer": Family(Transformer, 64, 2, range(1, 101), ("layer",)),
}


def build(architecture: Architecture, seed: int) -> nn.Module:
    """The network on the CPU, drawn from ``seed``: one seed, the same bytes. Global randomness is untouched.

    Raises `ModelError` for a name that is neither in `FAMILIES` nor a ``module:function``, and for a shape,
    width, depth or norm that the family cannot have; or where the function of a user raises.
    """
    make, described = _maker(architecture)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = make(described)
    if not isinstance(network, nn.Module):
        raise ModelError(f"model {architecture.model!r}: returned {type(network).__name__}, expected an nn.Module")
    return network


def size_bytes(architecture: Architecture) -> int:
    """The bytes of the tensors that the network has, of which none is made.

    Raises `ModelError` as `build` does, and `RuntimeError` for more bytes than can be counted.
    """
    make, described = _maker(architecture)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = cast(nn.Module, make(described))
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def head_name(model: nn.Module) -> str:
    """The name of the classifier: the last `nn.Linear` that ``model`` registers. It is "fc" in all we ship.

    Raises `ModelError` when there is none.
    """
    modules = cast(Iterable[tuple[str, nn.Module]], model.named_modules())
    names = [name for name, module in modules if isinstance(module, nn.Linear)]
    if not names:
        raise ModelError(f"{type(model).__name__} has no nn.Linear that could be its classifier")
    return names[-1]


def _maker(architecture: Architecture) -> tuple[Callable[[Architecture], object], Architecture]:
    if ":" in architecture.model:
        return _told(architecture.model), architecture
    family = FAMILIES.get(architecture.model)
    if family is None:
        raise ModelError(_unknown(architecture.model))
    return family.make, _described(architecture, family)


def _told(model: str) -> Callable[[Architecture], object]:
    """A function of the user's, whose errors say whose they are."""
    function = import_function(model)

    def make(architecture: Architecture) -> object:
        try:
            return function(architecture)
        except Exception as error:
            raise ModelError(
                f"model {model!r}: called with {architecture}, it raised {type(error).__name__}: {error}"
            ) from error

    return make


def _unknown(name: str) -> str:
    module, _, function = name.rpartition(".")
    is_dotted = all(each.isidentifier() for each in name.split(".")) and bool(module)
    near = f"{module}:{function}" if is_dotted else get_close_matches(name, FAMILIES, n=1, cutoff=0.0)[0]
    there = ", ".join(FAMILIES)
    return f"model {name!r} is unknown: did you mean {near!r}? There are {there}, and module:function"


def _described(architecture: Architecture, family: Family) -> Architecture:
    """``architecture`` with what it leaves to the family filled in."""
    name = architecture.model
    described = replace(
        architecture,
        width=architecture.width or family.width,
        depth=architecture.depth or family.depth,
        norm=architecture.norm or family.norms[0],
    )
    if described.width < 1 or described.classes < 1 or min(described.shape, default=0) < 1:
        raise ModelError(f"{name}: shape, classes and width must be positive, got {architecture}")
    if described.depth not in family.depths:
        raise ModelError(f"{name}: depth {described.depth} is not one of {_listed(family.depths)}")
    if described.norm not in family.norms:
        raise ModelError(f"{name}: norm {described.norm!r} is not one of {', '.join(family.norms)}")
    return described


def _listed(depths: Sequence[int]) -> str:
    shown = [str(depth) for depth in depths[:3]]
    return ", ".join(shown + ["…"] * (len(depths) > 3))
