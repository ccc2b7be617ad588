"""The strategy: FedAvg where there is nothing to permute, aligned where there is, and no round lost to one reply."""

import math
from itertools import permutations
from typing import get_type_hints

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from alignment.permutation import permute, random_permutation
from strategies.bounds import Bounds, update_norm
from strategies.errors import OperatorError
from strategies.fed_rebasin import FedAvgArguments, FedRebasin
from strategies.protocol import to_arrays, to_state
from strategies.settings import Settings
from tests.inprocess import InProcessGrid
from tests.replies import no_groups, ready, same_floats, small_spec, small_state, train_reply


def merge(strategy: FedRebasin, replies: list[Message]) -> ArrayRecord:
    arrays, _ = ready(strategy, small_state(0)).aggregate_train(1, replies)
    assert arrays is not None
    return arrays


def fedavg(replies: list[Message]) -> ArrayRecord:
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    return arrays


def test_identical_replies_give_fedavgs_bytes() -> None:
    replies = [train_reply(node, small_state(5), examples) for node, examples in ((1, 3), (2, 7), (3, 11))]
    assert same_floats(merge(FedRebasin(spec=small_spec(), reference="largest"), replies), fedavg(replies))


@pytest.mark.parametrize("seed", range(20))
def test_a_spec_without_groups_gives_fedavgs_bytes(seed: int) -> None:
    replies = [train_reply(node, small_state(seed + node), 3 * node + seed) for node in (1, 2, 3, 4)]
    assert same_floats(merge(FedRebasin(spec=no_groups()), replies), fedavg(replies))


@pytest.mark.parametrize("by_column", [{1}, {2}, {1, 2}])
def test_tensors_that_lie_by_column_give_fedavgs_bytes(by_column: set[int]) -> None:
    """As a transposed weight does, or what NumPy calls Fortran order."""
    states = {node: small_state(node) for node in (1, 2)}
    for node in by_column:
        states[node] = {name: t.T.contiguous().T if t.ndim == 2 else t for name, t in states[node].items()}
    replies = [train_reply(node, state, node) for node, state in states.items()]
    assert same_floats(merge(FedRebasin(spec=no_groups()), replies), fedavg(replies))


def test_double_precision_gives_fedavgs_bytes_too() -> None:
    replies = [train_reply(node, small_state(node, torch.float64), node) for node in (1, 2, 3)]
    strategy = ready(FedRebasin(spec=no_groups()), small_state(0, torch.float64))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert same_floats(arrays, fedavg(replies))


def test_a_permuted_copy_merges_with_its_original_into_the_original() -> None:
    original = small_state(3)
    moved = permute(small_spec(), random_permutation(small_spec(), torch.Generator().manual_seed(1)), original)
    replies = [train_reply(1, original, 10), train_reply(2, moved, 5)]
    merged = to_state(merge(FedRebasin(spec=small_spec(), reference="largest"), replies))
    assert all(torch.equal(merged[name], original[name]) for name in original)


def test_the_log_says_whether_alignment_did_anything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedrebasin")
    swapped = permute(small_spec(), {"P": torch.tensor([1, 0, 2, 3, 4, 5])}, small_state(1))
    copies = [train_reply(1, small_state(1), 30), train_reply(2, swapped), train_reply(3, small_state(1))]
    merge(FedRebasin(spec=small_spec(), reference="largest"), copies)
    assert "the reference is a; 1 of 2 other networks moved, 33% of their units" in caplog.messages
    merge(FedRebasin(spec=no_groups(), reference="largest"), copies)
    assert "the reference is a; 0 of 2 other networks moved" in caplog.messages


def test_order_of_arrival_never_matters() -> None:
    replies = [train_reply(node, small_state(node), node) for node in (1, 2, 3, 4)]
    results = {
        b"".join(array.numpy().tobytes() for array in merge(FedRebasin(spec=small_spec()), list(order)).values())
        for order in permutations(replies)
    }
    assert len(results) == 1


def test_integers_come_from_the_reference() -> None:
    replies = [train_reply(1, small_state(7), 1), train_reply(2, small_state(8), 2)]
    assert to_state(merge(FedRebasin(spec=small_spec()), replies))["steps"] == small_state(0)["steps"]
    assert to_state(merge(FedRebasin(spec=small_spec(), reference="largest"), replies))["steps"] == 9


def test_dtypes_and_order_of_tensors_stay_as_they_were() -> None:
    replies = [train_reply(node, small_state(node)) for node in (1, 2)]
    merged = to_state(merge(FedRebasin(spec=small_spec()), replies))
    assert [(name, t.dtype) for name, t in merged.items()] == [(n, t.dtype) for n, t in small_state(0).items()]


def test_half_precision_is_summed_in_double() -> None:
    states = [small_state(node, torch.float16) for node in range(1, 10)]
    strategy = ready(FedRebasin(spec=no_groups()), small_state(0, torch.float16))
    arrays, _ = strategy.aggregate_train(1, [train_reply(node + 1, state) for node, state in enumerate(states)])
    assert arrays is not None
    exact = torch.stack([state["hidden.weight"].double() for state in states]).mean(0)
    assert torch.equal(to_state(arrays)["hidden.weight"], exact.half())


def test_one_malformed_reply_leaves_what_the_others_give() -> None:
    honest = [train_reply(node, small_state(node), node) for node in (1, 3)]
    spoilt = train_reply(2, {**small_state(2), "hidden.bias": torch.full((6,), float("nan"))})
    strategy = FedRebasin(spec=small_spec())
    assert merge(strategy, [honest[0], spoilt, honest[1]]) == merge(FedRebasin(spec=small_spec()), honest)


def test_refusals_name_site_and_reason() -> None:
    strategy = FedRebasin(spec=small_spec())
    merge(strategy, [train_reply(1, small_state(1)), train_reply(2, small_state(2), examples=-9)])
    assert strategy.merged is not None
    assert [str(verdict) for verdict in strategy.merged.refused] == [
        "site 'b': the number of examples cannot be: "
        "'num-examples': expected a number above 0 and at most 1,000,000,000, got -9"
    ]


def test_a_reply_with_other_metrics_does_not_end_the_round() -> None:
    replies = [train_reply(1, small_state(1), loss=1.0), train_reply(2, small_state(2), accuracy=0.5)]
    assert merge(FedRebasin(spec=small_spec()), replies)


def test_metrics_that_all_give_are_averaged_as_fedavg_does() -> None:
    replies = [train_reply(1, small_state(1), 1, loss=1.0), train_reply(2, small_state(2), 3, loss=2.0)]
    _, metrics = ready(FedRebasin(spec=small_spec()), small_state(0)).aggregate_train(1, replies)
    assert metrics is not None
    assert metrics["loss"] == pytest.approx(1.75)


def test_it_takes_all_that_fedavg_takes_by_the_same_names() -> None:
    assert get_type_hints(FedAvgArguments) == {
        name: hint for name, hint in get_type_hints(FedAvg.__init__).items() if name != "return"
    }


def test_what_fedavg_takes_does_what_it_does_there() -> None:
    def highest(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        return MetricRecord({weighted_by_key: max(float(str(each["metrics"]["loss"])) for each in records)})

    strategy = FedRebasin(
        spec=small_spec(), min_train_nodes=3, weighted_by_key="patients", train_metrics_aggr_fn=highest
    )
    replies = [train_reply(node, small_state(node), patients=node, loss=float(node)) for node in (1, 3)]
    arrays, metrics = ready(strategy, small_state(0)).aggregate_train(1, replies)
    assert metrics == MetricRecord({"patients": 3.0})
    weighed = [train_reply(node, small_state(node), examples=node) for node in (1, 3)]
    assert arrays == merge(FedRebasin(spec=small_spec()), weighed)
    assert strategy.min_train_nodes == 3


def test_without_any_good_reply_the_model_stays() -> None:
    strategy = ready(FedRebasin(spec=small_spec()), small_state(0))
    assert strategy.aggregate_train(1, [train_reply(1, {"other": torch.ones(1)})]) == (None, None)


def test_a_reference_that_is_no_site_says_which_there_are() -> None:
    with pytest.raises(OperatorError, match="reference 'z': there is no site of that name; there are: a, b"):
        merge(FedRebasin(spec=small_spec(), reference="z"), [train_reply(node, small_state(node)) for node in (1, 2)])


def test_a_given_network_can_be_the_reference() -> None:
    merged = merge(FedRebasin(spec=small_spec(), reference=small_state(0)), [train_reply(1, small_state(1))])
    assert merged == merge(FedRebasin(spec=small_spec(), reference="global"), [train_reply(1, small_state(1))])


def test_it_is_a_drop_in_for_fedavg_in_any_flower_app() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: object) -> Message:  # pyright: ignore[reportUnusedFunction]
        state = to_state(message.content.array_records["arrays"])
        nudged = {name: t + 1 if t.is_floating_point() else t for name, t in state.items()}
        content = RecordDict({"arrays": to_arrays(nudged), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: object) -> Message:  # pyright: ignore[reportUnusedFunction]
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "x": 2.0})}), reply_to=message)

    grid = InProcessGrid(app, Settings(), 3)
    result = FedRebasin(spec=small_spec()).start(grid, to_arrays(small_state(0)), 2, train_config=ConfigRecord())
    expected = small_state(0)["hidden.bias"] + 2
    assert np.allclose(result.arrays["hidden.bias"].numpy(), expected.numpy())
    assert result.evaluate_metrics_clientapp[2]["x"] == pytest.approx(2.0)


def test_the_largest_is_so_by_what_it_holds_not_by_what_it_weighs_in_the_mean() -> None:
    """Bounded to one value, two sites would be level and the first by name be the largest."""
    replies = [train_reply(node, small_state(node), n) for node, n in ((1, 900), (2, 1000), (3, 10))]
    bounds = Bounds(max_share=0.4)
    largest = ready(FedRebasin(spec=small_spec(), reference="largest", bounds=bounds), small_state(0))
    largest.aggregate_train(1, replies)
    assert largest.merged is not None
    assert largest.merged.reference == "b"
    assert largest.merged.weights == pytest.approx({"a": 20.0, "b": 20.0, "c": 10.0})


def test_running_variances_do_not_count_as_an_update() -> None:
    before = {"weight": torch.zeros(2), "running_var": torch.zeros(2)}
    after = {"weight": torch.tensor([3.0, 4.0]), "running_var": torch.full((2,), 1e6)}
    assert update_norm(after, before, {"running_var"}) == 5
    assert math.isnan(update_norm({**after, "running_var": torch.full((2,), math.nan)}, before, {"running_var"}))


def test_a_new_round_begins_without_the_verdicts_of_the_last() -> None:
    strategy = ready(FedRebasin(spec=small_spec()), small_state(0))
    strategy.aggregate_train(1, [train_reply(1, small_state(1)), train_reply(77, small_state(2))])
    assert strategy.verdicts
    ready(strategy, small_state(0))
    assert not strategy.verdicts
