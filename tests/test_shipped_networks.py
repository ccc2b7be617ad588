"""Every shipped network, with every norm: its derived spec moves units, and moving them changes nothing."""

import pytest
import torch

from alignment import check_spec, derive_spec
from models import FAMILIES, Architecture, build

SHAPES = {"mlp": (1, 8, 8), "gru": (6, 5), "transformer": (6, 5)}
CASES = [(name, norm) for name, family in FAMILIES.items() for norm in family.norms]


def architecture(name: str, norm: str) -> Architecture:
    depth = 8 if name == "resnet20" else 0
    return Architecture(name, SHAPES.get(name, (3, 32, 32)), classes=4, width=8, depth=depth, norm=norm)


def example(name: str) -> torch.Tensor:
    return torch.randn((2, *SHAPES.get(name, (3, 32, 32))), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_random_permutations_leave_outputs_unchanged(name: str, norm: str) -> None:
    model = build(architecture(name, norm), seed=1)
    spec = derive_spec(model, (example(name),))
    assert len(spec.groups) >= {"gru": 1}.get(name, 2)
    assert check_spec(model, spec, (example(name),), generator=torch.Generator().manual_seed(2)) <= 1e-4


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_every_hidden_tensor_moves(name: str, norm: str) -> None:
    model = build(architecture(name, norm), seed=1)
    spec = derive_spec(model, (example(name),))
    # What stays: the classifier's bias, counters, and tables of positions.
    still = {key for key, tensor in model.state_dict().items() if tensor.ndim and key not in spec.moving}
    assert still <= {"fc.bias"}
