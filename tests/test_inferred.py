"""A shipped network's sizes are read off the shapes of its tensors."""

import pytest

from models import FAMILIES, Architecture, build
from models.inferred import Shapes, infer

CASES = [
    (name, norm, depth) for name, family in FAMILIES.items() for norm in family.norms for depth in family.depths[:2]
]


def shapes_of(architecture: Architecture) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in build(architecture, 0).state_dict().items()}


@pytest.mark.parametrize(("name", "norm", "depth"), CASES)
def test_every_family_is_rebuilt_from_the_shapes_of_its_tensors(name: str, norm: str, depth: int) -> None:
    shapes = shapes_of(Architecture(name, (3, 16, 16), 7, 8, depth, norm))
    found = infer(name, shapes)
    assert found is not None
    assert (found.classes, found.width, shapes_of(found)) == (7, 8, shapes)


def test_the_shapes_of_another_network_tell_nothing() -> None:
    shapes = shapes_of(Architecture("mlp", (4,), 2, 8, 1))
    assert infer("resnet20", shapes) is None
    assert infer("vgg11", {"features.0.weight": (8,), "fc.weight": (2, 2)}) is None
    assert infer("some.module:function", shapes) is None
