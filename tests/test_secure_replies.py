"""Nonsense in any stage of secure aggregation costs its site the turn, or all the round; never the model or the run."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage

from client.aligning import aligned_answer
from client.bench import Bench
from models import Architecture, build
from server.records import RoundRecord
from server.summary import read_rounds
from strategies.masked import MASKED
from strategies.protocol import ARRAYS, TRAIN, State, to_arrays
from strategies.settings import Settings
from tests.inprocess import FIRST_NODE, Tamper, play_in_process, play_in_vain, quick_settings

Attack = Callable[[Message], Message]
N_SITES = 5
SETUP, SHARE, COLLECT, UNMASK = Stage.all()
ATTACKER = "site-3"


def secure_settings(directory: Path, **changes: object) -> Settings:
    base = {"start": "shared", "align_at": "site", "probe_points": 0, "privacy": "secure-aggregation", "epochs": 1}
    base |= {"min_sites": 3, "rounds": 2, "later_epochs": 1, "round_deadline_seconds": 2.0}
    return quick_settings(directory, **{**base, **changes})


def attacking(stage: str, attack: Attack) -> Tamper:
    """Site 3 says what ``attack`` makes of its reply, at one stage of round 1."""
    answered = 0

    def tamper(partition: int, reply: Message) -> Message:
        nonlocal answered
        if partition != 2 or reply.metadata.message_type != TRAIN:
            return reply
        answered += 1
        return attack(reply) if answered == 1 + Stage.all().index(stage) else reply

    return tamper


def play_two_rounds(tmp_path: Path, stage: str, attack: Attack) -> tuple[RoundRecord, RoundRecord]:
    """Both rounds' records. The second merges all sites; after a void first one the model was unchanged."""
    settings = secure_settings(tmp_path)
    store = play_in_process(settings, N_SITES, attacking(stage, attack))
    first, second = read_rounds(store)
    assert second.outcome == "merged"
    assert len(second.weights) == N_SITES
    assert not second.refused
    untouched = build(Architecture(*settings.network), settings.seed).state_dict()
    moved = any(not torch.equal(tensor, untouched[name]) for name, tensor in store.network(1).items())
    assert moved == (first.outcome == "merged")
    assert moved == bool(first.weights)
    assert all(tensor.abs().max() <= settings.secure_range for tensor in store.network(1).values())
    return first, second


def config(reply: Message) -> ConfigRecord:
    return reply.content.config_records[RECORD_KEY_CONFIGS]


def nothing(reply: Message) -> Message:
    return Message(RecordDict(), reply_to=reply)


def garbage(reply: Message) -> Message:
    return Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({"a": ["", "b"], "c": 1.5, "d": []})}), reply_to=reply)


def arrays_only(reply: Message) -> Message:
    return Message(RecordDict({RECORD_KEY_CONFIGS: ArrayRecord({"a": Array(np.zeros(3))})}), reply_to=reply)


def failed(reply: Message) -> Message:
    return Message(Error(5, "node unavailable"), reply_to=reply)


def setting(key: str, value: object) -> Attack:
    """Another value for one key; None takes it away."""

    def attack(reply: Message) -> Message:
        if value is None:
            del config(reply)[key]
        else:
            config(reply)[key] = value  # pyright: ignore[reportArgumentType]
        return reply

    return attack


def array(values: "np.ndarray") -> Attack:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    """Another array for the first of the masked ones."""

    def attack(reply: Message) -> Message:
        reply.content.array_records[MASKED]["1"] = Array(values)
        return reply

    return attack


def without_arrays(reply: Message) -> Message:
    del reply.content[MASKED]
    return reply


def lying_header(reply: Message) -> Message:
    """The header in the bytes promises more than the array's own, and more than there is."""
    masked = reply.content.array_records[MASKED]
    said = masked["1"]
    data = said.data.replace(b"(64, 64), }" + 8 * b" ", b"(64, 8589934592), }", 1)
    assert len(data) == len(said.data)
    assert data != said.data
    masked["1"] = Array(dtype=said.dtype, shape=said.shape, stype=said.stype, data=data)
    return reply


def encoded(data: bytes) -> Attack:
    """Other bytes for the first of the masked arrays."""

    def attack(reply: Message) -> Message:
        masked = reply.content.array_records[MASKED]
        said = masked["1"]
        masked["1"] = Array(dtype=said.dtype, shape=said.shape, stype=said.stype, data=data)
        return reply

    return attack


def archive() -> bytes:
    """What `np.load` reads as no array, but as a folder of some."""
    file = BytesIO()
    np.savez(file, a=np.zeros(1, np.uint32))
    return file.getvalue()


def as_another(reply: Message) -> Message:
    """In the name of the first site."""
    reply.metadata.__dict__["_src_node_id"] = FIRST_NODE
    return reply


def without_result(reply: Message) -> Message:
    del reply.content["fitres.parameters"]
    return reply


def weighing(examples: float) -> Attack:
    def attack(reply: Message) -> Message:
        reply.content["fitres.num_examples"] = MetricRecord({"num_examples": examples})
        return reply

    return attack


def same_key(reply: Message) -> Message:
    config(reply)[Key.PUBLIC_KEY_2] = config(reply)[Key.PUBLIC_KEY_1]
    return reply


def fewer_ciphertexts(reply: Message) -> Message:
    texts = config(reply)[Key.CIPHERTEXT_LIST]
    assert isinstance(texts, list)
    config(reply)[Key.CIPHERTEXT_LIST] = texts[1:]
    return reply


ANY_STAGE = [nothing, garbage, arrays_only, failed]


@pytest.mark.parametrize("attack", ANY_STAGE)
@pytest.mark.parametrize("stage", [SETUP, SHARE, COLLECT])
def test_a_reply_of_another_kind_costs_its_site_the_turn(tmp_path: Path, stage: str, attack: Attack) -> None:
    first, _ = play_two_rounds(tmp_path, stage, attack)
    assert [refused.site for refused in first.refused] == [ATTACKER]
    assert sorted(first.weights) == ["site-4", "site-5", "site-eu", "site-us"]


@pytest.mark.parametrize("attack", [*ANY_STAGE, as_another])
def test_who_fails_once_it_is_in_the_sum_is_in_the_mean(tmp_path: Path, attack: Attack) -> None:
    first, _ = play_two_rounds(tmp_path, UNMASK, attack)
    assert not first.refused
    assert len(first.weights) == N_SITES


@pytest.mark.parametrize(
    ("stage", "attack"),
    [
        (SETUP, setting(Key.PUBLIC_KEY_1, None)),
        (SETUP, setting(Key.PUBLIC_KEY_1, b"no key")),
        (SETUP, setting(Key.PUBLIC_KEY_2, 7)),
        (SETUP, same_key),
        (SETUP, as_another),
        (SHARE, as_another),
        (COLLECT, as_another),
        (SHARE, setting(Key.DESTINATION_LIST, None)),
        (SHARE, setting(Key.DESTINATION_LIST, [1, 2, 3, 4])),
        (SHARE, setting(Key.DESTINATION_LIST, 3)),
        (SHARE, setting(Key.CIPHERTEXT_LIST, ["a", "b", "c", "d"])),
        (SHARE, fewer_ciphertexts),
        (COLLECT, without_arrays),
        (COLLECT, array(np.zeros(2, np.uint32))),
        (COLLECT, array(np.full((64, 64), np.nan, np.float32))),
        (COLLECT, array(np.zeros((64, 64), np.int64))),
        (COLLECT, without_result),
        (COLLECT, weighing(-1)),
        (COLLECT, weighing(10**12)),
        (COLLECT, weighing(1.5)),
    ],
)
def test_what_the_server_can_tell_costs_its_site_the_turn(tmp_path: Path, stage: str, attack: Attack) -> None:
    first, _ = play_two_rounds(tmp_path, stage, attack)
    assert [(refused.site, refused.reason) for refused in first.refused] == [(ATTACKER, "MALFORMED")]
    assert sorted(first.weights) == ["site-4", "site-5", "site-eu", "site-us"]


@pytest.mark.parametrize("attack", [lying_header, encoded(b"not an array"), encoded(archive())])
def test_bytes_that_are_no_masked_array_cost_their_site_the_turn(tmp_path: Path, attack: Attack) -> None:
    first, _ = play_two_rounds(tmp_path, COLLECT, attack)
    assert [(refused.site, refused.reason) for refused in first.refused] == [(ATTACKER, "ENCODING")]
    assert sorted(first.weights) == ["site-4", "site-5", "site-eu", "site-us"]


def other_shares(reply: Message) -> Message:
    """Of the right size, and nobody's."""
    texts = config(reply)[Key.SHARE_LIST]
    assert isinstance(texts, list)
    config(reply)[Key.SHARE_LIST] = [bytes(each)[:4] + bytes(len(bytes(each)) - 4) for each in texts]  # pyright: ignore[reportArgumentType]
    return reply


def short_shares(reply: Message) -> Message:
    config(reply)[Key.SHARE_LIST] = [b"x"] * N_SITES
    return reply


def false_ciphertexts(reply: Message) -> Message:
    config(reply)[Key.CIPHERTEXT_LIST] = [b"no ciphertext"] * (N_SITES - 1)
    return reply


def noise(reply: Message) -> Message:
    """Arrays of the right shapes with nothing under their mask: so does a site's NaN come, or whatever it makes up."""
    masked = reply.content.array_records[MASKED]
    draw = np.random.default_rng(0)
    for name, said in list(masked.items()):
        masked[name] = Array(draw.integers(0, 2**32, said.shape, np.uint32))
    return reply


@pytest.mark.parametrize(
    ("stage", "attack"),
    [(SHARE, false_ciphertexts), (COLLECT, noise), (UNMASK, other_shares), (UNMASK, short_shares)],
)
def test_what_nobody_can_tell_beforehand_makes_the_round_void(tmp_path: Path, stage: str, attack: Attack) -> None:
    first, _ = play_two_rounds(tmp_path, stage, attack)
    assert first.outcome == "void"


# Outside tests NumPy only warns that it casts NaN to an integer.
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_site_whose_network_is_no_number_does_not_mask_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverged: list[str] = []

    def aligned(bench: Bench, reference: State, own: State) -> dict[str, object]:
        """Alignment that lets NaN through, once."""
        records = aligned_answer(bench, reference, own)
        if bench.site.name == ATTACKER and not diverged:
            diverged.append(ATTACKER)
            records[ARRAYS] = to_arrays({name: each.new_full(each.shape, torch.nan) for name, each in own.items()})
        return records

    monkeypatch.setattr("client.app.aligned_answer", aligned)
    first, second = read_rounds(play_in_process(secure_settings(tmp_path), N_SITES))
    assert diverged
    assert [(refused.site, refused.reason) for refused in first.refused] == [(ATTACKER, "CLIENT_ERROR")]
    assert "see the site's own log" in first.refused[0].detail
    assert (len(first.weights), len(second.weights)) == (4, 5)


def test_sites_that_all_diverge_leave_the_model_as_it_was(tmp_path: Path) -> None:
    settings = secure_settings(tmp_path, learning_rate=1e9, later_learning_rate=1e9)
    store = play_in_vain(settings, 3)
    assert [record.outcome for record in read_rounds(store)] == ["void", "void"]
    untouched = build(Architecture(*settings.network), settings.seed).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in store.network(2).items())
