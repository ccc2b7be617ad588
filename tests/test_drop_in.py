"""In the place of `FedAvg`, `FedRebasin` takes what `FedAvg` took, and what it cannot take it tells before a round."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from alignment import derive_spec, match_activations, permute, random_permutation
from alignment.spec import PermutationSpec
from strategies import FedRebasin, Recalibration
from strategies.errors import OperatorError
from strategies.matching import AlignAt
from strategies.protocol import to_state
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, honest, quick_settings

ROOT = Path(__file__).resolve().parent.parent
INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def spec() -> PermutationSpec:
    return derive_spec(network(), (INPUTS,))


def app(
    network_of: Mapping[int, ArrayRecord] | None = None, told: Mapping[str, ConfigRecord] | None = None
) -> ClientApp:
    """Nodes that train nothing: each has its own network, or that which ``network_of`` gives it."""
    made = ClientApp()

    @made.train()
    def _train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        state = network_of[partition] if network_of else ArrayRecord(network(1 + partition).state_dict())
        metrics = MetricRecord({"num-examples": 10 + partition, "loss": float(partition)})
        return Message(RecordDict({"arrays": state, "mine": metrics, **(told or {})}), reply_to=message)

    return made


def grid(folder: Path, nodes: ClientApp, tamper: Tamper = honest) -> InProcessGrid:
    return InProcessGrid(nodes, quick_settings(folder), 3, tamper)


def start(strategy: FedAvg, where: Grid, arrays: ArrayRecord | None = None) -> dict[str, Tensor]:
    sent = arrays or ArrayRecord(network().state_dict())
    return to_state(strategy.start(where, sent, num_rounds=1).arrays)


def test_metrics_and_configs_reach_an_aggregation_under_the_names_that_nodes_gave_them(tmp_path: Path) -> None:
    def told(replies: list[RecordDict], weighted_by: str) -> MetricRecord:
        losses = sorted(float(str(each.metric_records["mine"]["loss"])) for each in replies)
        versions = [str(each.config_records["made-with"]["version"]) for each in replies]
        return MetricRecord({"losses": losses, "versions": float(len(versions))})

    nodes = app(told={"made-with": ConfigRecord({"version": "2"})})
    fedavg = FedAvg(train_metrics_aggr_fn=told, fraction_evaluate=0.0)
    ours = FedRebasin(spec=spec(), reference="largest", train_metrics_aggr_fn=told, fraction_evaluate=0.0)
    found = [
        strategy.start(grid(tmp_path, nodes), ArrayRecord(network().state_dict()), num_rounds=1)
        for strategy in (fedavg, ours)
    ]
    expected = {"losses": [0.0, 1.0, 2.0], "versions": 3.0}
    assert [dict(result.train_metrics_clientapp[1]) for result in found] == [expected, expected]


def test_a_run_goes_on_from_what_fedavg_merged(tmp_path: Path) -> None:
    """FedAvg's mean of a counter is in double precision, and a node's counter never is."""
    before = FedAvg(fraction_evaluate=0.0).start(
        grid(tmp_path, app()), ArrayRecord(network().state_dict()), num_rounds=1
    )
    assert before.arrays["1.num_batches_tracked"].dtype == "float64"
    strategy = FedRebasin(spec=spec(), reference="largest", fraction_evaluate=0.0)
    merged = start(strategy, grid(tmp_path, app()), before.arrays)
    assert not strategy.verdicts
    network().load_state_dict(merged)


def test_integers_in_the_place_of_weights_stay_refused(tmp_path: Path) -> None:
    state = network(1).state_dict()
    integers = ArrayRecord({**state, "0.weight": (state["0.weight"] * 100).long()})
    strategy = FedRebasin(spec=spec(), reference="largest", fraction_evaluate=0.0)
    nodes = app({0: integers, 1: ArrayRecord(state), 2: ArrayRecord(state)})
    start(strategy, grid(tmp_path, nodes))
    assert [verdict.tensor for verdict in strategy.verdicts] == ["0.weight"]


def gone(partition: int, reply: Message) -> Message | None:
    """Node 1 is gone: the SuperLink answers in its stead, and says so of itself."""
    if partition != 1:
        return reply
    asked = Message(RecordDict(), FIRST_NODE + partition, "train")
    asked.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
    return create_message_error_unavailable_res_message(asked.metadata, "node_unavail")


def silent(partition: int, reply: Message) -> Message | None:
    return None if partition == 1 else reply


@pytest.mark.parametrize(
    ("how", "told"), [(gone, "the site left while it was asked"), (silent, "no answer by the deadline")]
)
def test_a_node_that_does_not_answer_is_named(
    tmp_path: Path, how: Tamper, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = FedRebasin(spec=spec(), reference="largest", fraction_evaluate=0.0)
    start(strategy, grid(tmp_path, app(), how))
    assert [verdict.site for verdict in strategy.verdicts] == [str(FIRST_NODE + 1)]
    assert f"site '{FIRST_NODE + 1}': {told}" in caplog.text
    assert strategy.merged is not None
    assert len(strategy.merged.replies) == 2


class Namesakes(InProcessGrid):
    """A grid of which two nodes are registered under one name."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The first is called otherwise."""
        names = ["west", "east", "east"]
        return [NodeInfo(node_id=node, name=name) for node, name in zip(self.get_node_ids(), names, strict=True)]


def test_nodes_of_one_name_are_both_merged(tmp_path: Path) -> None:
    strategy = FedRebasin(spec=spec(), reference="west", fraction_evaluate=0.0)
    start(strategy, Namesakes(app(), quick_settings(tmp_path), 3))
    assert strategy.merged is not None
    assert list(strategy.merged.replies) == [f"east-{FIRST_NODE + 1}", f"east-{FIRST_NODE + 2}", "west"]


def heard(folder: Path, strategy: FedRebasin, arrays: ArrayRecord | None = None) -> list[int]:
    """Who was asked before the strategy refused the run, and what it said."""
    asked: list[int] = []

    def tamper(partition: int, reply: Message) -> Message:
        asked.append(partition)
        return reply

    start(strategy, grid(folder, app(), tamper), arrays)
    return asked


def test_arrays_without_the_networks_names_end_the_run_before_anybody_trains(tmp_path: Path) -> None:
    numbered = ArrayRecord([tensor.numpy() for tensor in network().state_dict().values()])
    with pytest.raises(OperatorError, match=r"initial_arrays: tensor '0.weight' is missing; .* got tensors named 0, 1"):
        heard(tmp_path, FedRebasin(spec=spec(), reference="largest"), numbered)


@pytest.mark.parametrize("align_at", ["site", "both"])
@pytest.mark.parametrize("reference", ["largest", "medoid", str(FIRST_NODE)])
def test_nodes_are_not_to_align_to_a_network_that_they_do_not_have(
    tmp_path: Path, align_at: AlignAt, reference: str
) -> None:
    with pytest.raises(OperatorError, match=f"align_at='{align_at}': expected reference='global', got '{reference}'"):
        heard(tmp_path, FedRebasin(spec=spec(), reference=reference, align_at=align_at))


def test_who_asks_by_itself_is_told_what_is_missing(tmp_path: Path) -> None:
    class Own(FedRebasin):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})})
            return [Message(content, node_id, "train") for node_id in grid.get_node_ids()]

    class Remembering(Own):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            self.remember(arrays, dict.fromkeys(grid.get_node_ids(), ""), apart=server_round == 1)
            return super().configure_train(server_round, arrays, config, grid)

    with pytest.raises(OperatorError, match=r"calls super\(\).configure_train\(…\), or self.remember\(arrays, names"):
        heard(tmp_path, Own(spec=spec(), reference="largest", fraction_evaluate=0.0))
    assert heard(tmp_path, Remembering(spec=spec(), reference="largest", fraction_evaluate=0.0)) == [0, 1, 2]


def test_statistics_that_cannot_be_asked_for_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strategy = FedRebasin(spec=spec(), recalibration=Recalibration(network(), INPUTS))
    strategy.remember(ArrayRecord(network().state_dict()), {})
    strategy.aggregate_train(1, [])
    assert "BatchNorm statistics stay as they were: configure_train was not called" in caplog.text
    normed = nn.Sequential(nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten())
    images = torch.zeros(2, 1, 3, 3)
    FedRebasin(spec=derive_spec(normed, (images,)), recalibration=Recalibration(normed, images)).summary()
    assert "1.running_var and its like are no BatchNorm's: their mean over the nodes stays" in caplog.text


PROGRAM = """
import logging, sys, torch
from alignment import derive_spec
from strategies import FedRebasin, Recalibration
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
if sys.argv[1:]:
    logging.getLogger("fedrebasin").setLevel(logging.ERROR)
FedRebasin(spec=derive_spec(model, (torch.zeros(2, 4),))).summary()
"""


def test_the_log_is_shown_as_fedavgs_is_unless_somebody_has_decided() -> None:
    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr

    assert "align at server: 1 groups, reference global" in said()
    assert "align at server" not in said("quiet")


def test_nobody_is_missed_where_nobody_trains(tmp_path: Path) -> None:
    assert not heard(tmp_path, FedRebasin(spec=spec(), reference="west", fraction_train=0.0, fraction_evaluate=0.0))


FAR = "most networks lie far from the one that was sent"


def test_the_log_says_where_nodes_did_not_start_from_what_was_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(FedRebasin(spec=spec(), reference="largest", fraction_evaluate=0.0), grid(tmp_path, app()))
    same = dict.fromkeys(range(3), ArrayRecord(network().state_dict()))
    start(FedRebasin(spec=spec(), fraction_evaluate=0.0), grid(tmp_path, app(same)))
    assert FAR not in caplog.text
    strategy = FedRebasin(spec=spec(), fraction_evaluate=0.0)
    start(strategy, grid(tmp_path, app()))
    assert f"{FAR}, as if nodes had not started from it: where they start apart, set reference" in caplog.text
    caplog.clear()
    strategy.start(grid(tmp_path, app()), ArrayRecord(network().state_dict()), num_rounds=2)
    assert "from round 2 on they train from the merge" in caplog.text


def test_nodes_align_themselves_as_the_page_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To a trained network that goes out, by activations; what they send comes out in its order."""
    sent = network(7)
    moved = permute(spec(), random_permutation(spec(), torch.Generator().manual_seed(1)), sent.state_dict())
    own = {**moved, "3.bias": moved["3.bias"] + 1}

    def nodes(align_at: AlignAt) -> ClientApp:
        made = ClientApp()

        @made.train()
        def _train(message: Message, context: Context) -> Message:
            model, its_spec = network(), spec()
            arrays = message.content.array_records["arrays"].to_torch_state_dict()
            matching = match_activations(its_spec, model, arrays, own, [INPUTS])
            content = RecordDict({"metrics": MetricRecord({"num-examples": 10})})
            if align_at == "site":
                content["arrays"] = ArrayRecord(permute(its_spec, matching.permutation, own))
            else:
                content["arrays"] = ArrayRecord(own)
                content["permutation"] = ArrayRecord(dict(matching.permutation))
            return Message(content, reply_to=message)

        return made

    caplog.set_level("INFO", "fedrebasin")
    expected = {**sent.state_dict(), "3.bias": sent.state_dict()["3.bias"] + 1}
    for align_at in ("site", "both"):
        strategy = FedRebasin(spec=spec(), align_at=align_at, fraction_evaluate=0.0)
        found = start(strategy, grid(tmp_path, nodes(align_at)), ArrayRecord(sent.state_dict()))
        assert not strategy.verdicts
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)
    assert "the reference is global; 3 networks came aligned" in caplog.messages
    assert "the reference is global; 3 of 3 other networks moved" in caplog.text
