"""A later round that stays near the ensemble of the networks a site already holds."""

from math import isfinite
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn

import client.app
from client.app import app, teacher_of
from client.bench import Bench, set_up
from client.own import keep_own, load_own
from client.site import read_site
from client.sources import Samples
from client.training import Objective, Schedule, Teacher, class_shift, train
from server.store import RunStore
from server.summary import read_rounds
from strategies.protocol import ARRAYS, CONFIG, ROUND, START, TRAIN, config_of, to_arrays
from tests.inprocess import FIRST_NODE, InProcessGrid, play_in_process, quick_settings


def test_the_divergence_is_that_from_the_averaged_probabilities() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(7, 4)
    teacher, logits = Teacher([first, second], 2.0), torch.randn(7, 3)
    wanted = (first(x).softmax(-1) + second(x).softmax(-1)) / 2
    expected = 2.0 * (wanted * (wanted.log() - logits.log_softmax(-1))).sum(-1).mean()
    assert torch.allclose(teacher.divergence(x, logits), expected, atol=1e-6)
    assert teacher.divergence(x, wanted.log()).item() == pytest.approx(0, abs=1e-6)


def test_a_strong_teacher_is_followed_against_the_labels() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    teacher, student = nn.Linear(4, 2), nn.Linear(4, 2)
    wrong = 1 - teacher(x).argmax(-1)
    schedule = Schedule(epochs=30, batch_size=16, learning_rate=0.1, weight_decay=0.0, seed=0)
    train(student, Samples(x, wrong), schedule, torch.device("cpu"), Objective(teacher=Teacher([teacher], 50.0)))
    assert (student(x).argmax(-1) == wrong).float().mean() < 0.2


def test_it_changes_later_rounds_only_and_costs_no_question(tmp_path: Path) -> None:
    asked: list[list[tuple[int, str]]] = [[], []]
    stores: list[RunStore] = []
    for weight in (0, 1):

        def look(partition: int, reply: Message, told: list[tuple[int, str]] = asked[weight]) -> Message:
            told.append((partition, reply.metadata.message_type))
            return reply

        settings = quick_settings(tmp_path / str(weight), distillation=float(weight), rounds=2)
        stores.append(play_in_process(settings, tamper=look))
    assert sorted(asked[0]) == sorted(asked[1])
    one, other = ([store.checkpoint_path(number).read_bytes() for number in (1, 2)] for store in stores)
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert len(read_rounds(stores[1])) == 2


def test_a_first_round_that_is_played_again_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until one has merged, nobody distils, whatever the round's number."""
    seen: list[tuple[int, bool]] = []

    def watched(bench: Bench, message: Message) -> Teacher | None:
        teacher = teacher_of(bench, message)
        seen.append((int(str(config_of(message)[ROUND])), teacher is not None))
        return teacher

    monkeypatch.setattr(client.app, "teacher_of", watched)
    trained: list[int] = []

    def silent_at_first(partition: int, reply: Message) -> Message | None:
        trained.append(partition)
        return None if reply.metadata.message_type == TRAIN and trained.count(1) == 2 else reply

    settings = quick_settings(
        tmp_path,
        start="shared",
        distillation=1.0,
        epochs=1,
        width=8,
        rounds=3,
        probe_points=0,
        round_deadline_seconds=0.5,
    )
    store = play_in_process(settings, 2, silent_at_first)
    assert [record.outcome for record in read_rounds(store)] == ["void", "merged", "merged"]
    assert sorted(seen) == [(1, False), (1, False), (2, False), (2, False), (3, True), (3, True)]


def test_a_run_that_goes_back_finds_its_teachers(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, distillation=1.0, epochs=1, later_epochs=1, width=8, rounds=3, probe_points=0)
    store = play_in_process(settings)
    before = [store.checkpoint_path(number).read_bytes() for number in (1, 2, 3)]
    for number in (2, 3):
        store.checkpoint_path(number).write_bytes(b"broken")
    play_in_process(settings)
    assert [store.checkpoint_path(number).read_bytes() for number in (1, 2, 3)] == before


def test_the_teacher_is_of_the_round_before_and_of_no_other_run(tmp_path: Path) -> None:
    node = {"name": "clinic", "state-dir": str(tmp_path)}
    one, other = (read_site(node, quick_settings(tmp_path, run=run)) for run in ("one", "other"))
    for number in (1, 2):
        keep_own(one, {"weight": torch.full((1,), float(number))}, number)
    found = [load_own(one, number) for number in (1, 2, 3)]
    assert [None if state is None else state["weight"].item() for state in found] == [1.0, 2.0, None]
    assert load_own(other) is None


def test_the_teacher_is_the_network_sent_and_the_sites_own(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, distillation=1.0)
    context = InProcessGrid(app, settings, 1).context(0)
    bench = set_up(context)
    own, sent = ({name: torch.full_like(t, v) for name, t in bench.model.state_dict().items()} for v in (1.0, 2.0))
    keep_own(bench.site, own, 1)
    content = RecordDict({ARRAYS: to_arrays(sent), CONFIG: ConfigRecord({ROUND: 2, START: "shared"})})
    teacher = teacher_of(bench, Message(content, FIRST_NODE, TRAIN))
    assert teacher is not None
    assert [float(network.state_dict()["fc.bias"][0]) for network in teacher.networks] == [2.0, 1.0]


def test_with_logit_adjustment_the_student_is_taught_by_its_own_logits() -> None:
    """A class that the site lacks has a shift of −∞: of that no divergence is finite."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    samples = Samples(x, torch.randint(0, 2, (64,)))
    objective = Objective(class_shift([32, 32, 0], 1.0), Teacher([teacher], 1.0))
    loss = train(student, samples, Schedule(2, 16, 0.1, 0.0, 0), torch.device("cpu"), objective)
    assert isfinite(loss)
    assert bool(student(x).isfinite().all())
