"""`fedrebasin barrier`: both lines, their heights, their picture."""

import html
import json
from pathlib import Path

import pytest
from torch.nn.functional import cross_entropy

from alignment import loss_barrier
from server.records import PathRecord
from strategies.tensor_files import read_tensors
from tests.commands import (
    DATA,
    HELD_OUT,
    MLP,
    RESNET,
    perceptron,
    residual,
    run,
    shuffled,
    some_digits,
    write,
    write_state,
)

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A perceptron and a copy of it in another order."""
    model = perceptron(0)
    copy = write_state(tmp_path / "b.safetensors", shuffled(model, 1))
    return write(tmp_path / "a.safetensors", model), copy


def test_there_is_no_barrier_to_a_shuffled_copy_once_aligned(pair: tuple[Path, Path], capsys: Capsys) -> None:
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert len(found["paths"]["naive"]["lambdas"]) == len(found["paths"]["aligned"]["losses"]) == 25
    assert found["paths"]["naive"]["barrier"] > 0.1
    assert abs(found["paths"]["aligned"]["barrier"]) < 1e-4
    for line in ("naive", "aligned"):
        assert found["barrier"][line] == found["paths"][line]["barrier"]
    assert found["barrier"]["definition"] == found["definition"]
    assert found["matching"]["gain"] > 0
    assert "BatchNorm" not in found["definition"]


def test_the_table_shows_naive_beside_aligned_and_says_what_a_barrier_is(
    pair: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--points", "3")
    assert "barrier: naive" in ran.out
    assert "aligned -0.000" in ran.out or "aligned 0.000" in ran.out
    assert "max over λ of L(λ) - ½(L(0) + L(1)), in nats" in ran.out


def no_such_number(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_a_loss_that_is_not_finite_is_null_in_json_and_told(tmp_path: Path, capsys: Capsys) -> None:
    model = perceptron(0)
    huge = {name: tensor * 1e30 for name, tensor in model.state_dict().items()}
    pair = write(tmp_path / "a.safetensors", model), write_state(tmp_path / "b.safetensors", huge)
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--points", "3", "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out, parse_constant=no_such_number)
    assert found["paths"]["naive"]["losses"][-1] is None
    assert ran.err.count("warning:") == 1
    assert "paths.naive.losses[1] is inf, and 7 more are not finite" in ran.err
    assert "null in the answer, since JSON has no such numbers" in ran.err


@pytest.mark.parametrize(
    ("options", "held_out", "flatters"),
    [((), None, False), (("--method", "activations"), None, True), ((HELD_OUT,), "tests.commands:other_digits", False)],
)
def test_a_measurement_that_flatters_says_so(
    pair: tuple[Path, Path], capsys: Capsys, options: tuple[str, ...], held_out: str | None, flatters: bool
) -> None:
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--points", "3", *options)
    assert ("--held-out takes others" in ran.err) is flatters
    found = json.loads(run(capsys, "barrier", *pair, MLP, DATA, "--points", "3", "--format", "json", *options).out)
    assert (found["held_out"], found["flatters"]) == (held_out, flatters)


def test_batch_norm_is_recalibrated_at_each_point_and_the_definition_says_so(tmp_path: Path, capsys: Capsys) -> None:
    inputs = [write(tmp_path / f"{seed}.safetensors", residual(seed)) for seed in (0, 1)]
    options = ("--points", "3", "--batch-size", "999", "--format", "json")
    found = json.loads(run(capsys, "barrier", *inputs, RESNET, DATA, *options).out)
    assert found["definition"].endswith("BatchNorm recalibrated at each λ, the ends included")
    a, b = (read_tensors(path) for path in inputs)
    stale, fresh = (
        loss_barrier(residual(0), a, b, [some_digits()], cross_entropy, 3, again) for again in (None, [some_digits()])
    )
    assert found["paths"]["naive"]["losses"] == pytest.approx(fresh.losses, rel=1e-4)
    assert found["paths"]["naive"]["losses"] != pytest.approx(stale.losses, rel=1e-2)


@pytest.mark.parametrize(("name", "beginning"), [("p.svg", b"<?xml"), ("p.png", b"\x89PNG")])
def test_the_plot_is_what_its_name_says_and_the_same_bytes_each_time(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, name: str, beginning: bytes
) -> None:
    pictures: list[bytes] = []
    for _ in range(2):
        ran = run(capsys, "barrier", *pair, MLP, DATA, "--points", "3", "--plot", tmp_path / name, "--force")
        assert ran.code == 0, ran.err
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(beginning)


def test_the_picture_says_what_it_shows_and_the_answer_where_it_is(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    drawn = ("--points", "3", "--plot", tmp_path / "p.svg", "--force")
    ran = run(capsys, "barrier", *pair, MLP, DATA, *drawn)
    assert f"picture: {tmp_path / 'p.svg'}" in ran.out.splitlines()
    barrier = next(line for line in ran.out.splitlines() if line.startswith("barrier: naive"))
    told = " ".join(html.unescape((tmp_path / "p.svg").read_text()).split())
    assert "from a.safetensors (λ = 0) to b.safetensors (λ = 1), on tests.commands:some_digits" in told
    assert f"{barrier}, in nats" in told
    found = json.loads(run(capsys, "barrier", *pair, MLP, DATA, *drawn, "--format", "json").out)
    assert found["plot"] == str(tmp_path / "p.svg")


def test_a_line_that_is_highest_at_an_end_is_said_to_tell_of_its_ends_alone(tmp_path: Path, capsys: Capsys) -> None:
    model = perceptron(0)
    worse = {name: tensor * -1 if name == "fc.weight" else tensor for name, tensor in model.state_dict().items()}
    inputs = write(tmp_path / "a.safetensors", model), write_state(tmp_path / "b.safetensors", worse)
    drawn = ("--points", "5", "--plot", tmp_path / "p.svg", "--force")
    ran = run(capsys, "barrier", *inputs, MLP, DATA, *drawn)
    said = "naive, aligned: highest at the end λ = 1; the barrier is half the ends' difference"
    assert said in ran.out.splitlines()
    assert said in html.unescape((tmp_path / "p.svg").read_text())
    found = json.loads(run(capsys, "barrier", *inputs, MLP, DATA, *drawn, "--format", "json").out)
    assert found["highest"]["naive"] == 1
    first, *_, last = found["paths"]["naive"]["losses"]
    assert found["barrier"]["naive"] == pytest.approx((last - first) / 2)


def test_a_line_that_rises_above_its_ends_or_nowhere_is_said_nothing_of(
    pair: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--points", "5")
    assert "aligned -0.000" in ran.out or "aligned 0.000" in ran.out
    assert "highest" not in ran.out
    found = json.loads(run(capsys, "barrier", *pair, MLP, DATA, "--points", "5", "--format", "json").out)
    assert 0 < found["highest"]["naive"] < 1


def test_a_point_in_between_is_the_highest_only_above_both_ends() -> None:
    losses = {(1.0, 1.0, 0.5): 0, (0.5, 1.0, 1.0): 1, (0.5, 1.0, 0.9): 0.5, (1.0, 1.0, 1.0): 0}
    for each, lam in losses.items():
        path = PathRecord(lambdas=[0, 0.5, 1], losses=list(each), accuracies=[0, 0, 0], barrier=0)
        assert path.highest == lam


def test_dollars_in_a_name_are_no_formula(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    odd = [path.rename(path.with_name(f"{path.stem}_{{$.safetensors")) for path in pair]
    ran = run(capsys, "barrier", *odd, MLP, DATA, "--points", "3", "--plot", tmp_path / "p.svg")
    assert ran.code == 0, ran.err
    assert "from a_{$.safetensors (λ = 0)" in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(
    ("plot", "words"), [("p.pdf", ".svg or .png"), ("there.svg", "add --force to replace it"), ("x/p.svg", "a file")]
)
def test_a_plot_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, plot: str, words: str
) -> None:
    (tmp_path / "there.svg").write_text("")
    (tmp_path / "x").write_text("")
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--plot", tmp_path / plot)
    assert (ran.code, ran.out) == (18, "")
    assert words in ran.err


def test_samples_of_a_class_that_the_network_lacks_are_refused(tmp_path: Path, capsys: Capsys) -> None:
    states = [perceptron(seed).state_dict() for seed in (0, 1)]
    few = [{**state, "fc.weight": state["fc.weight"][:4], "fc.bias": state["fc.bias"][:4]} for state in states]
    inputs = [write_state(tmp_path / f"{n}.safetensors", state) for n, state in enumerate(few)]
    ran = run(capsys, "barrier", *inputs, MLP, DATA)
    assert ran.code == 17
    assert "the data has class 9" in ran.err
    assert "4 outputs" in ran.err
