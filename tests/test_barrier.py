"""The loss barrier, and the sums that it is made of."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from alignment.barrier import DEFINITION, LossSums, barrier_from_losses, loss_barrier, loss_sums
from alignment.batch_norm import recalibrate
from alignment.errors import StateError
from alignment.interpolate import interpolate
from tests.trained import Batches, digits, digits_network, trained


def mlp(seed: int) -> nn.Module:
    return digits_network("mlp", "none", 8, seed, depth=1)


def test_the_barrier_is_the_rise_over_the_mean_of_the_ends():
    found = barrier_from_losses((0.0, 0.5, 1.0), (1.0, 5.0, 2.0), (0.7, 0.1, 0.6))
    assert found.barrier == 3.5
    assert found.definition == DEFINITION
    assert (found.losses, found.accuracies) == ((1.0, 5.0, 2.0), (0.7, 0.1, 0.6))


def test_a_path_below_its_ends_has_half_their_difference_for_a_barrier():
    assert barrier_from_losses((0.0, 0.5, 1.0), (1.0, 0.0, 2.0), (1.0, 1.0, 1.0)).barrier == 0.5


@pytest.mark.parametrize(
    ("lambdas", "losses", "said"),
    [((0.0, 0.9), (1.0, 1.0), "from λ = 0 to λ = 1"), ((0.0, 0.5, 1.0), (1.0, 1.0), "expected as many")],
)
def test_half_a_path_has_no_barrier(lambdas: tuple[float, ...], losses: tuple[float, ...], said: str):
    with pytest.raises(ValueError, match=said):
        barrier_from_losses(lambdas, losses, losses)


def test_a_network_has_no_barrier_to_itself():
    state, held = mlp(0).state_dict(), digits()[1]
    found = loss_barrier(mlp(1), state, state, held, cross_entropy, points=3)
    assert found.barrier == pytest.approx(0, abs=1e-6)
    assert found.lambdas == (0.0, 0.5, 1.0)


def test_the_path_has_25_points_from_the_reference_to_the_other():
    ends, held = (mlp(0).state_dict(), mlp(1).state_dict()), digits()[1]
    found = loss_barrier(mlp(2), *ends, held, cross_entropy)
    sums = [loss_sums(mlp(2), end, held, cross_entropy) for end in ends]
    assert len(found.lambdas) == 25
    assert (found.losses[0], found.losses[-1]) == tuple(at.loss / at.count for at in sums)
    assert (found.accuracies[0], found.accuracies[-1]) == tuple(at.correct / at.count for at in sums)


def test_sums_of_uneven_batches_are_those_of_one_batch():
    x, y = digits()[1][0]
    model, uneven = mlp(0), [(x[:100], y[:100]), (x[100:101], y[100:101]), (x[101:], y[101:])]
    apart = loss_sums(model, model.state_dict(), uneven, cross_entropy)
    whole = loss_sums(model, model.state_dict(), [(x, y)], cross_entropy)
    assert (apart.count, apart.correct) == (whole.count, whole.correct) == (len(y), whole.correct)
    assert apart.loss == pytest.approx(whole.loss, rel=1e-6)
    with torch.no_grad():
        assert whole.correct == (model(x).argmax(1) == y).sum()
        assert whole.loss == pytest.approx(cross_entropy(model(x), y, reduction="sum").item(), rel=1e-6)


def test_sums_of_sites_pool_by_addition():
    assert LossSums(2, 3.0, 1.0) + LossSums(1, 1.0, 1.0) == LossSums(3, 4.0, 2.0)


def test_batches_that_can_be_read_once_serve_the_whole_path():
    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield from digits()[1]

    ends = mlp(0).state_dict(), mlp(1).state_dict()
    from_list = loss_barrier(mlp(2), *ends, digits()[1], cross_entropy, points=3)
    assert loss_barrier(mlp(2), *ends, once(), cross_entropy, points=3) == from_list
    batches = once()
    assert loss_barrier(mlp(2), *ends, batches, cross_entropy, 3, recalibrate_with=batches) == from_list


def test_labels_of_every_pixel_count_as_shares_of_a_sample():
    model = nn.Conv2d(1, 2, 1, bias=False)
    state = {"weight": torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)}
    x = torch.tensor([[1.0, 1.0, 1.0, -1.0]]).reshape(1, 1, 2, 2)
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    assert loss_sums(model, state, [(x, labels)], cross_entropy).correct == 0.75


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.uint16], ids=str)
def test_class_numbers_of_any_width_give_the_same_sums(dtype: torch.dtype):
    torch.manual_seed(0)
    model, inputs, targets = nn.Linear(4, 3), torch.randn(9, 4), torch.randint(3, (9,))
    wide, narrow = (
        loss_sums(model, model.state_dict(), [(inputs, labels)], cross_entropy)
        for labels in (targets, targets.to(dtype))
    )
    assert narrow == wide


def test_targets_without_classes_have_no_accuracy():
    model = nn.Linear(3, 1)
    sums = loss_sums(model, model.state_dict(), [(torch.randn(4, 3), torch.randn(4, 1))], mse_loss)
    assert (sums.count, str(sums.correct)) == (4, "nan")


def test_the_callers_network_and_states_come_out_as_they_were():
    model, held = digits_network("resnet20", "batch", 4, 0, depth=8).train(), digits()[1]
    ends = [digits_network("resnet20", "batch", 4, seed, depth=8).state_dict() for seed in (1, 2)]
    kept = [{name: t.clone() for name, t in state.items()} for state in (model.state_dict(), *ends)]
    loss_barrier(model, ends[0], ends[1], held, cross_entropy, points=2, recalibrate_with=held)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for before, after in zip(kept, (model.state_dict(), *ends), strict=True):
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_statistics_are_recomputed_at_each_point_when_asked():
    train, held = digits()
    model = digits_network("resnet20", "batch", 8, 9, depth=8)
    a, b = (trained("resnet20", "batch", 8, seed, depth=8).state_dict() for seed in (0, 1))
    stale = loss_barrier(model, a, b, held, cross_entropy, points=3)
    fresh = loss_barrier(model, a, b, held, cross_entropy, points=3, recalibrate_with=iter(train))
    assert fresh.losses[1] < stale.losses[1]
    assert fresh.losses == tuple(_by_hand(model, interpolate(a, b, lam), train, held) for lam in fresh.lambdas)


def _by_hand(model: nn.Module, state: dict[str, Tensor], train: Batches, held: Batches) -> float:
    model.load_state_dict(state)
    recalibrate(model, train)
    sums = loss_sums(model, model.state_dict(), held, cross_entropy)
    return sums.loss / sums.count


def test_a_state_of_another_network_is_refused():
    with pytest.raises(StateError, match="does not fit MLP"):
        loss_sums(mlp(0), {"weight": torch.zeros(1)}, digits()[1], cross_entropy)


def test_a_path_of_one_point_is_refused():
    state = mlp(0).state_dict()
    batches = iter(digits()[1])
    for points in (0, 1):
        with pytest.raises(ValueError, match=f"points must be 2 or more, .* got {points}"):
            loss_barrier(mlp(0), state, state, batches, cross_entropy, points)
    assert next(batches)[0] is digits()[1][0][0], "nothing was read"


def test_without_batches_there_is_no_barrier():
    state = mlp(0).state_dict()
    with pytest.raises(ValueError, match="no batches"):
        loss_barrier(mlp(0), state, state, [], cross_entropy, points=2)
