"""What the shapes of a state dict's tensors tell of the network that they belong to."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isqrt, prod

from models.architecture import Architecture

Shapes = Mapping[str, tuple[int, ...]]

# Where the shapes do not tell the size of an image or the length of a sequence, any will do.
SIDE = 32
TIME = 8
MADE_UP = ("vgg11", "vgg16", "resnet18", "resnet20", "resnet50", "gru")


def infer(model: str, shapes: Shapes) -> Architecture | None:
    """The architecture of the family ``model`` that has tensors of these shapes.

    None when they are not that family's, or the family is none of ours. Heights, widths and lengths on which no tensor
    depends are made up, as they are for the families in ``MADE_UP``.
    """
    reader = READERS.get(model)
    try:
        return None if reader is None else replace(reader(shapes), model=model)
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        return None


def inputs_taken(model: str, shape: Sequence[int]) -> str:
    """What one sample must be for a network of the family ``model`` whose weights are as for inputs of ``shape``.

    The same for all shapes that such weights take; empty where the family is none of ours.
    """
    shown = [str(size) for size in shape]
    if model == "mlp":
        return f"{prod(shape)} numbers in any shape"
    if model == "gru":
        return "x".join(["TIME", *shown[1:]])
    if model in MADE_UP:
        return "x".join([*shown[:1], "HEIGHT", "WIDTH"])
    return "x".join(shown) if model in READERS else ""


def _mlp(shapes: Shapes) -> Architecture:
    width, inputs = shapes["layers.0.0.weight"]
    depth = _count(shapes, r"layers\.\d+\.0\.weight")
    return Architecture("", (inputs,), _classes(shapes), width, depth, _norm(shapes, "layers.0.1"))


def _vgg(shapes: Shapes) -> Architecture:
    width, channels = shapes["features.0.weight"][:2]
    pixels = shapes["fc.weight"][1] // (8 * width)
    side = SIDE * isqrt(pixels)
    depth = _count(shapes, r"features\.\d+\.weight", axes=4)
    # As the name counts them: the published networks have three linear layers.
    return Architecture("", (channels, side, side), _classes(shapes), width, depth + 3, _norm(shapes, "features.1"))


def _resnet20(shapes: Shapes) -> Architecture:
    depth = 6 * _count(shapes, r"layer1\.\d+\.conv1\.weight") + 2
    return replace(_resnet(shapes), depth=depth)


def _resnet(shapes: Shapes) -> Architecture:
    width, channels = shapes["conv1.weight"][:2]
    return Architecture("", (channels, SIDE, SIDE), _classes(shapes), width, 0, _norm(shapes, "bn1"))


def _gru(shapes: Shapes) -> Architecture:
    features, width = shapes["gru.weight_ih_l0"][1], shapes["gru.weight_hh_l0"][1]
    return Architecture("", (TIME, features), _classes(shapes), width, _count(shapes, r"gru\.weight_hh_l\d+"))


def _transformer(shapes: Shapes) -> Architecture:
    (time, width), features = shapes["position"], shapes["embed.weight"][1]
    return Architecture("", (time, features), _classes(shapes), width, _count(shapes, r"blocks\.\d+\.norm1\.weight"))


READERS: Mapping[str, Callable[[Shapes], Architecture]] = {
    "mlp": _mlp,
    "vgg11": _vgg,
    "vgg16": _vgg,
    "resnet20": _resnet20,
    "resnet18": _resnet,
    "resnet50": _resnet,
    "gru": _gru,
    "transformer": _transformer,
}


def _classes(shapes: Shapes) -> int:
    return shapes["fc.weight"][0]


def _norm(shapes: Shapes, layer: str) -> str:
    if f"{layer}.running_mean" in shapes:
        return "batch"
    return "layer" if f"{layer}.weight" in shapes else "none"


def _count(shapes: Shapes, pattern: str, axes: int = 0) -> int:
    """How many tensors are named so, of those with that many axes."""
    named = [shape for name, shape in shapes.items() if re.fullmatch(pattern, name)]
    return len([shape for shape in named if not axes or len(shape) == axes])
