"""`FedRebasin` in a Flower app of one's own: BatchNorm statistics of the merge come from the nodes."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
)
from torch import Tensor, nn

from alignment import AlignmentError, derive_spec, recalibrate
from strategies import FedRebasin, Recalibration, recalibration_reply
from strategies.errors import OperatorError
from strategies.exchange import Clock
from strategies.matching import AlignAt
from strategies.protocol import MERGED, RECALIBRATE, TRAIN, to_state
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, Ticking, honest, quick_settings

EXAMPLE = torch.zeros(1, 4)
ROOT = Path(__file__).resolve().parent.parent


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
    )


def samples(partition: int) -> Tensor:
    return torch.randn(20 + partition, 4, generator=torch.Generator().manual_seed(partition)) + partition


def own_app() -> ClientApp:
    """Nodes that start apart, train nothing, and answer what is asked about BatchNorm."""
    app = ClientApp()

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        state = ArrayRecord(network(seed=1 + partition).state_dict())
        metrics = MetricRecord({"num-examples": len(samples(partition))})
        return Message(RecordDict({"arrays": state, "metrics": metrics}), reply_to=message)

    @app.query("recalibrate")
    def _recalibrate(message: Message, context: Context) -> Message:
        return recalibration_reply(network(), message, [samples(int(context.node_config["partition-id"]))])

    return app


def merged(
    folder: Path, tamper: Tamper = honest, recalibration: Recalibration | None = None, n_nodes: int = 3
) -> dict[str, Tensor]:
    """What comes of one round of Flower's own loop."""
    grid = InProcessGrid(own_app(), quick_settings(folder), n_nodes, tamper)
    strategy = FedRebasin(
        spec=derive_spec(network(), (torch.randn(8, 4),)),
        reference="largest",
        fraction_evaluate=0,
        recalibration=recalibration,
    )
    result = strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=1)
    return to_state(result.arrays)


def is_statistic(name: str) -> bool:
    return "running" in name


def asked(passes: int = 1, clock: Clock | None = None) -> Recalibration:
    return Recalibration(network(), EXAMPLE, passes=passes, clock=clock or Clock())


def recalibrated(state: dict[str, Tensor], partitions: list[int]) -> dict[str, Tensor]:
    """What `alignment.recalibrate` makes of it where nodes' samples are in one place, each node's in a batch."""
    model = network()
    model.load_state_dict(state)
    recalibrate(model, [samples(partition) for partition in partitions])
    return model.state_dict()


def bare(replies: Callable[[RecordDict], None] | None, at: int) -> Tamper:
    """A node whose answers about BatchNorm are tampered with; with None, it gives none."""

    def tamper(partition: int, reply: Message) -> Message | None:
        if partition == at and reply.metadata.message_type == RECALIBRATE:
            if replies is None:
                return None
            replies(reply.content)
        return reply

    return tamper


def test_statistics_are_those_of_all_nodes_samples_together(tmp_path: Path) -> None:
    without, with_it = merged(tmp_path), merged(tmp_path, recalibration=asked())
    expected = recalibrated(without, [0, 1, 2])
    for name, tensor in with_it.items():
        torch.testing.assert_close(tensor, expected[name] if is_statistic(name) else without[name])
    assert not torch.allclose(with_it["1.running_var"], without["1.running_var"])


def test_a_second_pass_normalises_by_the_statistics_of_the_first(tmp_path: Path) -> None:
    once, twice = merged(tmp_path, recalibration=asked()), merged(tmp_path, recalibration=asked(passes=2))
    model = network()
    model.load_state_dict(once)
    front = model[:4].eval()
    with torch.no_grad():
        inputs = front(torch.cat([samples(partition) for partition in range(3)]))
    torch.testing.assert_close(twice["4.running_mean"], inputs.mean(0))
    torch.testing.assert_close(twice["4.running_var"], inputs.var(0))
    assert not torch.allclose(once["4.running_var"], inputs.var(0))


SPOILT: dict[str, Callable[[RecordDict], None] | None] = {
    "silent": None,
    "not finite": lambda content: told(content, torch.full((6,), torch.nan)),
    "of another shape": lambda content: told(content, torch.zeros(7)),
    "of another network": lambda content: content.update({"other": ArrayRecord()}),
}


def told(content: RecordDict, sums: Tensor) -> None:
    content.array_records[MERGED]["1.sum"] = Array(sums.double().numpy())


@pytest.mark.parametrize("how", SPOILT)
def test_a_node_that_answers_badly_is_left_out_of_the_statistics(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    without = merged(tmp_path)
    found = merged(tmp_path, bare(SPOILT[how], at=1), asked(clock=Ticking().clock()))
    expected = recalibrated(without, [0, 2])
    for name in filter(is_statistic, found):
        torch.testing.assert_close(found[name], expected[name])
    assert "BatchNorm statistics are those of 2 nodes of 3" in caplog.text


def test_without_any_answer_the_statistics_stay_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = merged(tmp_path)

    def mute(partition: int, reply: Message) -> Message | None:
        return None if reply.metadata.message_type == RECALIBRATE else reply

    found = merged(tmp_path, mute, asked(clock=Ticking().clock()))
    assert all(torch.equal(found[name], without[name]) for name in found)
    assert "BatchNorm statistics stay as they were: no node of 3 answered query.recalibrate" in caplog.text


def test_nodes_whose_networks_were_refused_are_not_asked(tmp_path: Path) -> None:
    heard: list[int] = []

    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == RECALIBRATE:
            heard.append(partition)
        elif partition == 1:
            reply.content["metrics"] = MetricRecord({"num-examples": -1})
        return reply

    merged(tmp_path, tamper, asked())
    assert heard == [0, 2]


def test_the_log_says_where_statistics_are_averaged(caplog: pytest.LogCaptureFixture) -> None:
    spec = derive_spec(network(), (torch.randn(8, 4),))
    FedRebasin(spec=spec, recalibration=asked()).summary()
    FedRebasin(spec=derive_spec(nn.Sequential(nn.Linear(4, 3)), (torch.randn(8, 4),))).summary()
    assert "Recalibration(model, example)" not in caplog.text
    FedRebasin(spec=spec).summary()
    assert "Recalibration(model, example)" in caplog.text


def test_a_network_of_another_shape_is_refused_at_the_node() -> None:
    content = RecordDict({MERGED: ArrayRecord(nn.Linear(4, 3).state_dict()), "config": ConfigRecord({})})
    message = Message(content, FIRST_NODE, RECALIBRATE)
    with pytest.raises(Exception, match="the state does not fit Sequential"):
        recalibration_reply(network(), message, [samples(0)])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"spec": None}, "spec: expected a PermutationSpec"),
        ({"reference": 3}, "reference: expected 'global', 'largest'.* got a int"),
        ({"reference": {"0.weight": torch.zeros(1)}}, "reference"),
        ({"rule": "krm"}, "rule: expected one of mean, trimmed-mean, median, krum, got 'krm'"),
        ({"align_at": "none"}, "align_at: expected one of server, site, both, got 'none'"),
    ],
    ids=["spec", "reference", "state", "rule", "align at"],
)
def test_what_a_strategy_is_made_of_is_looked_at_at_once(given: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"spec": derive_spec(network(), (torch.randn(8, 4),)), **given}
    with pytest.raises((TypeError, ValueError, AlignmentError), match=told):
        FedRebasin(**arguments)


@pytest.mark.parametrize("align_at", ["server", "both", "site"])
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_updates_that_nodes_clip_are_not_aligned_at_the_server(
    tmp_path: Path, align_at: AlignAt, adaptive: bool
) -> None:
    grid = InProcessGrid(own_app(), quick_settings(tmp_path), 3)
    inner = FedRebasin(spec=derive_spec(network(), (torch.randn(8, 4),)), align_at=align_at)
    strategy = (
        DifferentialPrivacyClientSideAdaptiveClipping(inner, 0.1, 3)
        if adaptive
        else DifferentialPrivacyClientSideFixedClipping(inner, 0.1, 1.0, 3)
    )

    def configure() -> list[Message]:
        arrays = ArrayRecord(network().state_dict())
        return list(strategy.configure_train(1, arrays, ConfigRecord(), grid))

    if align_at == "site":
        assert len(configure()) == 3
    else:
        with pytest.raises(OperatorError, match=f"expected align_at='site', got '{align_at}'"):
            configure()


def test_a_recalibration_that_could_not_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"example: the network does not take it: .* Give what forward takes"):
        Recalibration(network(), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="passes: expected 1 or more, got 0"):
        Recalibration(network(), EXAMPLE, passes=0)


class Assembling(InProcessGrid):
    """A grid whose last node comes once somebody has asked for nodes."""

    asked = False

    def get_node_ids(self) -> list[int]:
        there = list(super().get_node_ids())
        there, self.asked = (there if self.asked else there[:-1]), True
        return there


def test_a_node_that_comes_while_others_are_waited_for_is_merged(tmp_path: Path) -> None:
    grid = Assembling(own_app(), quick_settings(tmp_path), 3)
    strategy = FedRebasin(
        spec=derive_spec(network(), (torch.randn(8, 4),)), reference="largest", fraction_evaluate=0, min_train_nodes=3
    )
    strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=1)
    assert strategy.merged is not None
    assert (len(strategy.merged.replies), list(strategy.verdicts)) == (3, [])


def test_a_reference_that_is_not_asked_ends_the_run_before_anybody_trains(tmp_path: Path) -> None:
    grid = InProcessGrid(own_app(), quick_settings(tmp_path), 3)
    arrays, spec = ArrayRecord(network().state_dict()), derive_spec(network(), (torch.randn(8, 4),))
    told: list[str] = []
    for node_id in grid.get_node_ids():
        strategy = FedRebasin(spec=spec, reference=str(node_id), fraction_train=0.4, min_train_nodes=1)
        random.seed(0)
        try:
            (message,) = strategy.configure_train(1, arrays, ConfigRecord(), grid)
            assert message.metadata.dst_node_id == node_id
        except OperatorError as error:
            told.append(str(error))
    assert len(told) == 2
    assert all("the node is connected, and was not drawn for round 1; drawn were: 100" in each for each in told)


def test_a_reference_that_is_not_there_ends_the_run_before_anybody_trains(tmp_path: Path) -> None:
    heard: list[int] = []

    def tamper(partition: int, reply: Message) -> Message:
        heard.append(partition)
        return reply

    grid = InProcessGrid(own_app(), quick_settings(tmp_path), 3, tamper)
    strategy = FedRebasin(spec=derive_spec(network(), (torch.randn(8, 4),)), reference="largets")
    with pytest.raises(OperatorError, match="'largets': there is no site of that name; there are: 1000, 1001"):
        strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=1)
    assert not heard


def test_the_log_has_the_end_of_a_nodes_traceback_without_colours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == TRAIN:
            told = f"\x1b[36mray::ClientAppActor.run()\x1b[39m{'x' * 400}\n\x1b[31mOSError: disk full\x1b[0m\n"
            return Message(Error(2, told), reply_to=Message(RecordDict(), FIRST_NODE + 1, TRAIN))
        return reply

    merged(tmp_path, tamper, asked())
    assert "the site answered with an error: code 2: OSError: disk full" in caplog.text


def test_the_log_says_where_nothing_is_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN:
            arrays = reply.content.array_records["arrays"]
            arrays["module.0.bias"] = arrays.pop("0.bias")
        return reply

    grid = InProcessGrid(own_app(), quick_settings(tmp_path), 3, tamper)
    strategy = FedRebasin(spec=derive_spec(network(), (torch.randn(8, 4),)), fraction_evaluate=0, recalibration=asked())
    strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=1)
    assert "admitted 0 replies, refused 3: nothing is merged" in caplog.text
    assert "tensor '0.bias': missing; 'module.0.bias' is unknown" in caplog.text


def test_a_tensor_in_the_place_of_the_inputs_is_told() -> None:
    # In a process of its own: in this one types are checked.
    program = "import torch, alignment; alignment.derive_spec(torch.nn.Linear(4, 3), torch.zeros(2, 4))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (
        "SpecError: derive_spec: expected a tuple of all that the network is called with, such as (x,)" in done.stderr
    )
