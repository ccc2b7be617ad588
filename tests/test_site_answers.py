"""What leaves a site: networks, sums and moments; never a sample, and never an exception's text."""

import weakref
from math import log, prod
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from alignment.repair import goals_between, unit_moments
from client.app import app
from client.bench import set_up
from client.own import load_own
from client.site import Site
from client.sources import Samples, scaled
from models import Architecture, build
from server.baselines import log_priors
from server.recalibration import example_of
from strategies.admission import Admitted
from strategies.layer_sums import layer_sums
from strategies.protocol import (
    ALIGN,
    ARRAYS,
    CLASS_COUNTS,
    CONFIG,
    DESCRIBE,
    DESCRIPTION,
    EVALUATE,
    FEATURES,
    FIRST,
    GOALS,
    GRAM,
    LAYERS,
    LOGISTIC,
    MERGED,
    METRICS,
    NETWORK,
    OUTPUTS,
    OWN,
    PROBE,
    RECALIBRATE,
    REPAIR,
    ROUND,
    START,
    TRAIN,
    metrics_of,
    to_arrays,
    to_state,
    unpack_sums,
)
from strategies.rounds import MergedRound
from strategies.settings import Settings, parse_settings
from tests.inprocess import FIRST_NODE, InProcessGrid, quick_settings


def ask(settings: Settings, message_type: str, content: RecordDict, **node_config: str) -> Message:
    grid = InProcessGrid(app, settings, 1, node_config=node_config)
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, message_type)])
    return reply


def train(settings: Settings, start: str = "seed", **node_config: str) -> Message:
    content = RecordDict({CONFIG: ConfigRecord({ROUND: 1, START: start})})
    return ask(settings, TRAIN, content, **node_config)


def test_a_site_says_its_name_and_how_many_samples_it_has(tmp_path: Path) -> None:
    said = ask(quick_settings(tmp_path), DESCRIBE, RecordDict()).content.config_records[DESCRIPTION]
    assert dict(said) == {"name": "site-us", "train-samples": 1438, "held-out-samples": 359}


def test_a_site_keeps_the_network_that_it_sends(tmp_path: Path) -> None:
    sent = to_state(train(quick_settings(tmp_path)).content.array_records[ARRAYS])
    kept = load_own(Site("site-us", tmp_path / "test" / "sites" / "site-us", "digits"))
    assert kept is not None
    assert all(torch.equal(sent[name], kept[name]) for name in sent)


def test_a_site_can_join_with_a_network_that_it_trained_before(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    train(settings)
    own = tmp_path / "test" / "sites" / "site-us" / "own-0001.safetensors"
    kept = own.rename(tmp_path / "mine.safetensors")
    afresh, further = train_loss(train(settings)), train_loss(train(settings, "checkpoint", checkpoint=str(kept)))
    assert further < 0.7 * afresh


def test_a_site_that_was_given_no_network_says_so_at_home_only(tmp_path: Path) -> None:
    reply = train(quick_settings(tmp_path), "checkpoint")
    assert reply.error.reason == "SettingsError: see the site's own log"


def train_loss(reply: Message) -> float:
    return float(str(metrics_of("site-us", reply)["train-loss"]))


def test_sums_are_over_the_held_out_samples(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    network = train(settings).content.array_records[ARRAYS]
    reply = ask(settings, EVALUATE, RecordDict({"mine": network, CONFIG: ConfigRecord({"own": True})}))
    sums = unpack_sums("site-us", metrics_of("site-us", reply))
    assert set(sums) == {"mine", "own"}
    assert sums["mine"] == sums["own"]
    assert sums["mine"].count == 359


def test_prior_correction_undoes_a_bias_of_the_head(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    state = to_state(train(settings).content.array_records[ARRAYS])
    bias = torch.linspace(-9, 9, 10)
    skewed = {name: t + bias if name == "fc.bias" else t for name, t in state.items()}
    config = ConfigRecord({"log-prior.skewed": bias.tolist()})
    content = RecordDict({"plain": to_arrays(state), "skewed": to_arrays(skewed), CONFIG: config})
    sums = unpack_sums("site-us", metrics_of("site-us", ask(settings, EVALUATE, content)))
    assert sums["skewed.corrected"].correct == sums["plain"].correct > sums["skewed"].correct
    assert sums["skewed.corrected"].loss == pytest.approx(sums["plain"].loss, rel=1e-4)


def test_the_ensemble_is_the_mean_of_the_networks_probabilities(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    one, two = (build(Architecture(*settings.network), seed) for seed in (1, 2))
    # So that the mean of their logits would say something else.
    one.get_submodule("fc").weight.data *= 30  # pyright: ignore[reportOperatorIssue]
    content = RecordDict({name: to_arrays(net.state_dict()) for name, net in (("one", one), ("two", two))})
    content[CONFIG] = ConfigRecord({"ensemble": ["one", "two"]})
    (sums,) = [unpack_sums("site-us", metrics_of("site-us", ask(settings, EVALUATE, content)))["ensemble"]]
    held_out = set_up(InProcessGrid(app, settings, 1).context(0)).data.held_out
    ((inputs, targets),) = held_out.batches(1000, torch.device("cpu"))
    with torch.no_grad():
        chances = (one.eval()(inputs).double().softmax(-1) + two.eval()(inputs).double().softmax(-1)) / 2
    assert sums.loss == pytest.approx(-chances[torch.arange(len(targets)), targets].log().sum().item(), rel=1e-5)
    assert sums.correct == (chances.argmax(-1) == targets).sum()


def test_a_prior_is_the_logarithm_of_the_classes_shares() -> None:
    """One sample added to each class; what `logit-adjustment` took in training is not taken twice."""
    metrics = MetricRecord({CLASS_COUNTS: [29, 9]})
    merged = MergedRound("a", {}, {"a": Admitted("a", {}, 38, RecordDict({"metrics": metrics}))}, {}, {}, {})
    expected = [log(30 / 40), log(10 / 40)]
    assert log_priors(merged, parse_settings({}))["a"] == pytest.approx(expected)
    halved = log_priors(merged, parse_settings({"logit-adjustment": 0.5}))["a"]
    assert halved == pytest.approx([0.5 * each for each in expected])


def test_recalibrate_answers_with_counts_sums_and_squares_of_each_network(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, model="resnet20", depth=8, width=4, epochs=1)
    network = train(settings).content.array_records[ARRAYS]
    reply = ask(settings, RECALIBRATE, RecordDict({"one": network, "two": network}))
    assert set(reply.content.array_records) == {"one", "two"}
    moments = to_state(reply.content.array_records["one"])
    assert {name.rpartition(".")[2] for name in moments} == {"count", "sum", "squares"}
    assert moments["bn1.count"] == 1438 * 8 * 8


def test_in_half_precision_each_network_is_judged_with_its_own_weights(tmp_path: Path) -> None:
    # Convolutions in bfloat16 may be kept from one network to the next, which has other weights.
    both = {"wide": quick_settings(tmp_path), "half": quick_settings(tmp_path, autocast=True)}
    trained = to_state(train(both["wide"]).content.array_records[ARRAYS])
    other = {name: tensor.flip(0) for name, tensor in trained.items()}
    content = RecordDict({"first": to_arrays(other), "second": to_arrays(trained)})
    wide, half = (unpack_sums("site-us", metrics_of("site-us", ask(each, EVALUATE, content))) for each in both.values())
    for name in ("first", "second"):
        assert half[name].loss == pytest.approx(wide[name].loss, rel=0.02)
    assert wide["first"].loss != half["first"].loss


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (RECALIBRATE, {"norm": "batch"}),
        (REPAIR, {"repair": True}),
        (REPAIR, {"repair": True, "goals": True}),
        (FEATURES, {"head": "ridge"}),
        (LOGISTIC, {"head": "logistic"}),
        (GRAM, {"merge": "least-squares"}),
        (OUTPUTS, {"merge": "sequential"}),
    ],
)
def test_no_answer_has_all_samples_as_floats_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, changes: dict[str, object]
) -> None:
    in_memory: list[weakref.ref[Tensor]] = []
    most = 0

    def counted(samples: Samples, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        nonlocal most
        inputs = scaled(samples.inputs[rows]).to(device)
        in_memory.append(weakref.ref(inputs))
        most = max(most, sum(each() is not None for each in in_memory))
        return inputs, samples.targets[rows]

    monkeypatch.setattr(Samples, "batch", counted)
    monkeypatch.setattr("client.answers.batch_size", 32)
    monkeypatch.setattr("client.answers.statistics_batch_size", 32)
    settings = quick_settings(tmp_path, **{key: value for key, value in changes.items() if key != "goals"})
    model = build(Architecture(*settings.network), 0)
    network = to_arrays(model.state_dict())
    content = RecordDict({MERGED: network, CONFIG: ConfigRecord({LAYERS: ["fc"]})})
    if "goals" in changes:
        ends = [unit_moments(model, [example_of(settings)])] * 2
        content[GOALS] = to_arrays(goals_between(ends, (0.5, 0.5)))
    if asked == OUTPUTS:
        content[OWN] = network
    assert not ask(settings, asked, content).has_error()
    assert len(in_memory) == 45
    # The first, by which the network's calls are known, and those that a lone sample could join.
    assert most <= 5


def test_an_exceptions_text_stays_at_the_site(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, data="tests.test_site_answers:secret_failure")
    reply = train(settings)
    assert reply.has_error()
    assert reply.error.reason == "DataError: see the site's own log"


def secret_failure() -> None:
    raise RuntimeError("patient 4711 has no scan in /data/ward-3")


def test_a_wrong_path_is_not_told_to_the_server(tmp_path: Path) -> None:
    reply = train(quick_settings(tmp_path, data="/data/ward-3"))
    assert reply.error.reason == "DataError: see the site's own log"


def test_a_network_that_does_not_fit_is_an_error_reply_not_a_crash(tmp_path: Path) -> None:
    content = RecordDict({"odd": to_arrays({"a": torch.zeros(2)}), CONFIG: ConfigRecord()})
    assert ask(quick_settings(tmp_path), EVALUATE, content).error.reason == "RuntimeError: see the site's own log"


def test_a_reply_holds_no_record_that_the_protocol_does_not_name(tmp_path: Path) -> None:
    reply = train(quick_settings(tmp_path))
    assert set(reply.content) == {ARRAYS, METRICS}
    assert set(reply.content.metric_records[METRICS]) == {"num-examples", "train-loss"}


def test_a_network_whose_name_begins_like_a_record_of_another_kind_is_answered_for(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, epochs=1, width=16)
    network = train(settings).content.array_records[ARRAYS]
    reply = ask(settings, EVALUATE, RecordDict({"goals-clinic": network}))
    assert set(metrics_of("site-us", reply)) == {"goals-clinic"}


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (NETWORK, {"reference": "global"}),
        (NETWORK, {"align_at": "server"}),
        (ALIGN, {"align_at": "server"}),
        (PROBE, {"probe_points": 0}),
        (FEATURES, {"head": "counts"}),
        (LOGISTIC, {"head": "ridge"}),
        (GRAM, {"merge": "sequential"}),
        (OUTPUTS, {"merge": "least-squares"}),
        (REPAIR, {}),
    ],
)
def test_a_site_answers_nothing_that_its_run_does_not_call_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: str, changes: dict[str, object]
) -> None:
    reply = ask(quick_settings(tmp_path, **changes), asked, RecordDict())
    assert reply.error.reason == "OperatorError: see the site's own log"
    assert f"asked for {asked} in a run without " in caplog.text


@pytest.mark.parametrize(
    ("reference", "first", "sends"),
    [("largest", True, False), ("global", False, False), ("medoid", True, True), ("medoid", False, False)],
)
def test_a_site_that_aligns_sends_its_network_as_it_is_for_a_first_medoid_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: str, first: bool, sends: bool
) -> None:
    settings = quick_settings(tmp_path, align_at="site", reference=reference, epochs=1)
    config = ConfigRecord({ROUND: 1, START: "seed", FIRST: first})
    reply = ask(settings, TRAIN, RecordDict({CONFIG: config}))
    assert reply.has_error() is not sends
    assert ("asked for its network as it was trained" in caplog.text) is not sends


def test_gram_matrices_are_of_one_network_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit is of one."""
    settings = quick_settings(tmp_path, merge="least-squares", epochs=1)
    network = train(settings).content.array_records[ARRAYS]
    content = RecordDict({CONFIG: ConfigRecord({LAYERS: ["fc"]}), "one": network, "two": network})
    assert ask(settings, GRAM, content).has_error()
    assert "Gram matrices of several networks at once: not answered" in caplog.text


@pytest.mark.parametrize(("merge", "asked"), [("least-squares", GRAM), ("sequential", OUTPUTS)])
def test_a_site_says_how_much_it_sends_and_holds_to_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, merge: str, asked: str
) -> None:
    caplog.set_level("INFO", "fedrebasin")
    settings = quick_settings(tmp_path, merge=merge, width=64, gram_limit_megabytes=0.04)
    network = train(settings).content.array_records[ARRAYS]
    sums = layer_sums(build(Architecture(*settings.network), 0), example_of(settings), settings, merge == "sequential")
    left = [name for name in sums.every if name not in sums.chosen]
    assert left
    assert sums.chosen
    for layer in (next(iter(sums.chosen)), left[0], "no-layer"):
        names = ["site-us"] if asked == GRAM else [MERGED, OWN]
        content = RecordDict({CONFIG: ConfigRecord({LAYERS: [layer]}), **dict.fromkeys(names, network)})
        reply = ask(settings, asked, content)
        if layer in sums.chosen:
            assert f"sending {sums}" in caplog.text
            sent = [array for record in reply.content.array_records.values() for array in record.values()]
            assert 0 < sum(prod(array.shape) * 4 for array in sent) <= 40_000
        else:
            assert reply.error.reason == "OperatorError: see the site's own log"
            assert f"asked for sums over the inputs of {layer!r}: not answered" in caplog.text
