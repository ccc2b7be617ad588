"""What cannot be derived stays fixed, in just that part, with the reason; never a wrong group, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from alignment.tracing import derive_spec
from alignment.tracing.derivation import Derivation
from tests.derived import derived, freedom

VECTOR = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))


class Part(nn.Module):
    """Two linear layers with ``between`` called on what lies between them."""

    def __init__(self, between: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 5), nn.Linear(5, 6), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def around(part: nn.Module) -> nn.Module:
    before, after = [nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6)], [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)]
    return nn.Sequential(*before, part, *after)


def _branch(x: Tensor) -> Tensor:
    return x.flip(1) if x.sum() > 1e9 else x.relu()


def _item(x: Tensor) -> Tensor:
    return x * (2.0 if x.abs().max().item() > 0 else x.flip(1))


def _listed(x: Tensor) -> Tensor:
    return x + torch.tensor(x.tolist())


def _as_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2)


def _selected(x: Tensor) -> Tensor:
    return x if len(torch.masked_select(x, x > 1e9)) else x.relu()


def _nonzero(x: Tensor) -> Tensor:
    return x * (1 if len(x.nonzero()) else 0)


def _masked(x: Tensor) -> Tensor:
    return x + x[x > 0].sum()


def _compared(x: Tensor) -> Tensor:
    return x.relu() if torch.equal(x, x) else x.flip(1)


@pytest.mark.parametrize(
    ("between", "operation"),
    [
        *((_branch, "_local_scalar_dense"), (_item, "_local_scalar_dense"), (_listed, "tolist")),
        *((_as_numpy, "numpy"), (_selected, "masked_select"), (_nonzero, "nonzero"), (_masked, "index")),
        (_compared, "equal"),
    ],
)
def test_data_dependent_control_flow_fixes_its_own_module(between: Callable[[Tensor], Any], operation: str) -> None:
    spec = derived(around(Part(between)), VECTOR)
    assert freedom(spec) == {"0": 7, "4": 8}
    reason = f"data-dependent control flow: {operation} in 3"
    assert spec.fixed["2.weight", 0] == reason
    assert {spec.fixed[f"3.{name}", 0] for name in ("a.weight", "a.bias", "b.weight", "b.bias")} == {reason}
    assert spec.fixed["3.b.weight", 1] == reason
    assert spec.fixed["4.weight", 1] == reason


def test_a_branch_on_constants_is_no_data_dependence() -> None:
    def causal(x: Tensor) -> Tensor:
        return x.relu() if bool(torch.ones(3, 3).tril().any()) else x

    assert freedom(derived(around(Part(causal)), VECTOR)) == {"0": 7, "2": 6, "3.a": 5, "3.b": 6, "4": 8}


class _Gate(nn.Module):
    """Tells its caller a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> float:
        return self.weight(x).sum().item()


def test_a_number_that_leaves_a_module_fixes_its_caller_too() -> None:
    class Gated(Part):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.gate = _Gate()

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x.flip(1) if self.gate(x) > 1e9 else x.relu())

    spec = derived(around(Gated()), VECTOR)
    assert freedom(spec) == {"0": 7, "4": 8}
    assert spec.fixed["3.b.weight", 1] == "data-dependent control flow: _local_scalar_dense in 3"


def test_parameters_of_an_untaken_branch_that_are_shared_elsewhere_stay() -> None:
    shared = nn.Linear(5, 5)

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(x) if x.sum() > 1e9 else x

    net = nn.Sequential(nn.Linear(4, 5), Branch(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), shared, nn.Linear(5, 2))
    spec = derived(net, VECTOR)
    assert freedom(spec) == {"2": 6}
    assert spec.fixed["6.weight", 1].startswith("data-dependent control flow")


def test_control_flow_of_the_whole_network_fixes_the_whole_network() -> None:
    class Root(Part):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 1e9 else -x)

    spec = derived(Root(torch.relu), torch.randn(2, 6))
    assert spec.groups == {}
    assert spec.fixed["a.weight", 0] == "data-dependent control flow: _local_scalar_dense in the network"


@torch.library.custom_op("fedrebasin_tests::backwards", mutates_args=())
def _backwards(x: Tensor) -> Tensor:
    return x.flip(1)


def test_an_unknown_operation_fixes_what_it_touches() -> None:
    spec = derived(around(Part(_backwards)), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "3.b": 6, "4": 8}
    assert spec.fixed["3.a.weight", 0] == "unknown operation fedrebasin_tests::backwards"
    assert spec.fixed["3.b.weight", 1] == "unknown operation fedrebasin_tests::backwards"


def test_a_reason_holds_no_address() -> None:
    class Refusing(Part):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError(f"refused by {object()!r}")
            return super().forward(x)

    spec = derive_spec(Refusing(torch.relu), (torch.randn(2, 6),))
    assert spec.fixed["a.weight", 0] == "not derived: RuntimeError: refused by <object object>"


def test_a_rule_that_is_wrong_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.tracing.rules import elementwise, table

    monkeypatch.setitem(table._RULES, "flip", elementwise.elementwise)  # pyright: ignore[reportPrivateUsage]
    spec = derived(around(Part(lambda x: x.flip(1))), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "3.b": 6, "4": 8}
    assert spec.fixed["3.a.weight", 0].startswith("not proved: outputs differ by")


def test_a_family_that_is_wrong_is_kept_as_one_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    class AllPairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 12), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.a(x).unflatten(-1, (3, 4))
            return self.b((heads @ heads.transpose(-2, -1)).flatten(1))

    right = derived(AllPairs(), VECTOR)

    def nothing(derivation: Derivation) -> tuple[()]:
        return ()

    monkeypatch.setattr("alignment.tracing.families._mixed", nothing)
    assert derived(AllPairs(), VECTOR) == right
    assert freedom(right) == {"a.heads": 3, "a.units": 4}


def test_a_rule_that_breaks_is_an_unknown_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.tracing.rules import table

    def broken(op: object) -> Any:
        raise IndexError(str(op)[:0])

    monkeypatch.setitem(table._RULES, "flip", broken)  # pyright: ignore[reportPrivateUsage]
    spec = derived(around(Part(lambda x: x.flip(1))), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "3.b": 6, "4": 8}
    assert "flip in a form without a rule" in spec.fixed["3.a.weight", 0]


def test_random_masks_at_evaluation_fix_what_they_meet() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    assert freedom(derived(around(Part(noisy)), VECTOR)) == {"0": 7, "2": 6, "3.b": 6, "4": 8}


def test_random_numbers_that_happen_to_be_equal_still_have_positions() -> None:
    def masked(x: Tensor) -> Tensor:
        return x * (torch.rand(5) < 2)

    spec = derived(around(Part(masked)), VECTOR)
    assert spec.fixed["3.a.weight", 0] == "operation rand"


def test_statistics_written_at_evaluation_move_with_their_channels() -> None:
    class Training(nn.BatchNorm1d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return torch.ops.aten._native_batch_norm_legit(
                input, self.weight, self.bias, self.running_mean, self.running_var, True, 0.1, 1e-5
            )[0]

    spec = derived(nn.Sequential(nn.Linear(4, 5), Training(5), nn.Linear(5, 2)), torch.randn(6, 4))
    assert freedom(spec) == {"0": 5}


def test_a_parameter_that_nothing_reads_stays() -> None:
    part = Part(torch.relu)
    part.spare = nn.Linear(3, 3)
    spec = derived(around(part), VECTOR)
    assert spec.fixed["3.spare.weight", 0] == "it has no say in the outputs of the traced run"


def test_a_layer_without_influence_stays() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(x) + 0 * self.b(self.a(x))

    spec = derived(Masked(), VECTOR)
    assert spec.groups == {}
    assert spec.fixed["a.weight", 0] == "the outputs do not depend on it"


def _frozen(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


def _detached(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).detach()


def _signed(net: nn.Module, x: Tensor) -> Tensor:
    return torch.sign(net(x))


def _spiking(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x) > 0).to(x.dtype)


def _checkpointed(net: nn.Module, x: Tensor) -> Tensor:
    run = cast(Callable[..., Tensor], checkpoint.checkpoint)  # pyright: ignore[reportUnknownMemberType]
    return run(net, x, use_reentrant=True)


class _Backbone(nn.Module):
    """``through`` lies between a backbone and a head: the outputs depend on the backbone, their gradient may not."""

    def __init__(self, through: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6))
        self.head, self.through = nn.Linear(6, 2), through

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.through(self.backbone, x))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("through", [_frozen, _detached, _signed, _spiking, _checkpointed])
def test_groups_that_no_gradient_reaches_still_move(through: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert freedom(derived(_Backbone(through), VECTOR)) == {"backbone.0": 7, "backbone.2": 6}


def test_a_layer_without_influence_behind_a_detached_one_stays() -> None:
    class Masked(_Backbone):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * self.head(self.backbone(x).detach()).sum()

    spec = derived(Masked(_detached), VECTOR)
    assert spec.groups == {}
    assert spec.fixed["backbone.2.weight", 0] == "the outputs do not depend on it"


@dataclass
class _Output:
    logits: Tensor
    extra: dict[str, Tensor]


def test_outputs_are_found_in_containers_and_objects() -> None:
    class Structured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: dict[str, Tensor]) -> _Output:
            hidden = self.a(x["x"])
            return _Output(self.c(self.b(hidden).relu()), {"hidden": hidden})

    spec = derived(Structured(), {"x": VECTOR})
    assert freedom(spec) == {"b": 6}
    assert spec.fixed["a.weight", 0] == "network output"


def test_a_network_that_cannot_be_copied_is_left_as_it_was() -> None:
    class Alone(Part):
        def __deepcopy__(self, memo: object) -> Any:
            raise RuntimeError("one of a kind")

    net = Alone(torch.relu)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    spec = derived(net, torch.randn(2, 6))
    assert freedom(spec) == {"a": 5}
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert net.training


def test_a_network_in_fixed_precision_is_proved_in_it() -> None:
    class Single(Part):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    assert freedom(derived(Single(torch.relu), torch.randn(2, 6))) == {"a": 5}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_gives_the_same_spec(dtype: torch.dtype) -> None:
    net = Part(torch.relu)
    assert derived(net.to(dtype), torch.randn(2, 6, dtype=dtype)) == derived(net.float(), torch.randn(2, 6))


def test_the_network_and_its_flags_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    net[1].eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    image = torch.randn(2, 3, 4, 4)
    fast, random = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    derived(net, image)
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert (net.training, net[1].training) == (True, False)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.mkldnn.enabled
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)


def test_the_order_of_groups_is_that_of_the_state_dict() -> None:
    spec = derived(around(Part(torch.relu)), VECTOR)
    assert list(spec.groups) == ["0", "2", "3.a", "3.b", "4"]
    assert list(spec.axes) == list(around(Part(torch.relu)).state_dict())


def test_what_the_network_raises_reaches_the_caller() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        derive_spec(nn.Linear(4, 2), (torch.randn(2, 5),))
