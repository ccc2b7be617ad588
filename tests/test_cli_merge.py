"""`fedrebasin merge`: what it writes, what it says, what it refuses."""

import hashlib
import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from alignment import match_weights, permute, recalibrate
from alignment.barrier import loss_sums
from alignment.interpolate import weighted_mean
from alignment.tracing import derive_spec
from cli.errors import OptionError
from cli.same import NOTHING_MERGED
from strategies.tensor_files import read_tensors
from tests.commands import (
    DATA,
    HELD_OUT,
    MLP,
    RESNET,
    InstanceNormed,
    Tagger,
    TwoHeads,
    advised,
    apart,
    here,
    perceptron,
    residual,
    run,
    shuffled,
    some_digits,
    write,
    write_state,
)
from tests.deployment.samples import write_images

Capsys = pytest.CaptureFixture[str]
TWO_HEADS = "--model=tests.commands:two_heads"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two perceptrons that learnt apart."""
    return write(tmp_path / "a.safetensors", perceptron(0)), write(tmp_path / "b.safetensors", perceptron(1))


@pytest.fixture
def residuals(tmp_path: Path) -> tuple[Path, Path]:
    """Two networks with BatchNorm that learnt apart."""
    return write(tmp_path / "a.safetensors", residual(0)), write(tmp_path / "b.safetensors", residual(1))


def card_of(output: Path) -> dict[str, Any]:
    return json.loads(output.with_suffix(".json").read_text())


def test_merging_shuffled_copies_gives_the_network_itself(tmp_path: Path, capsys: Capsys) -> None:
    model = perceptron(0)
    copies = [write_state(tmp_path / f"{seed}.safetensors", shuffled(model, seed)) for seed in (1, 2)]
    inputs = [write(tmp_path / "a.safetensors", model), *copies]
    ran = run(capsys, "merge", *inputs, MLP, "-o", tmp_path / "out.safetensors")
    assert ran.code == 0
    merged = read_tensors(tmp_path / "out.safetensors")
    assert list(merged) == list(read_tensors(inputs[0]))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(merged[name], tensor)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("a", "a.safetensors was given twice"),
        ("twin", "a.safetensors and twin.safetensors are the same network: all their weights are equal"),
    ],
)
def test_the_same_network_twice_is_merged_and_told(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, second: str, words: str
) -> None:
    # Another file, with the tensors of the first.
    (tmp_path / "twin.safetensors").write_bytes(pair[0].read_bytes())
    inputs = (pair[0], tmp_path / f"{second}.safetensors")
    ran = run(capsys, "merge", *inputs, MLP, "-o", tmp_path / "out.safetensors", "--format", "json")
    assert ran.code == 0, ran.err
    note = f"{words}. Was another file meant?"
    assert f"warning: {note}" in ran.err.splitlines()
    assert f"warning: {NOTHING_MERGED}" in ran.err.splitlines()
    assert json.loads(ran.out)["notes"] == [note, NOTHING_MERGED]
    assert {note, NOTHING_MERGED} <= set((tmp_path / "out.md").read_text().splitlines())
    # With another one there is something to merge.
    ran = run(capsys, "merge", *inputs, pair[1], MLP, "-o", tmp_path / "more.safetensors", "--format", "json")
    assert json.loads(ran.out)["notes"] == [note]
    measured = run(capsys, "barrier", *inputs, MLP, DATA, "--points", "3", "--format", "json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["notes"] == [note]
    assert f"warning: {note}" in measured.err.splitlines()


def test_two_networks_are_not_called_one(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", "--format", "json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["notes"] == []
    assert "Was another file meant" not in ran.err


@pytest.mark.parametrize("kind", ["pair", "residuals"])
def test_layers_fitted_in_sequence_beat_their_mean(
    tmp_path: Path, capsys: Capsys, kind: str, request: pytest.FixtureRequest
) -> None:
    inputs: tuple[Path, Path] = request.getfixturevalue(kind)
    named = MLP if kind == "pair" else RESNET
    losses: dict[str, float] = {}
    for layers in ("mean", "sequential"):
        output = tmp_path / f"{layers}.safetensors"
        wanted = ("--layers", layers, named, DATA, HELD_OUT, "-o", output)
        assert run(capsys, "merge", *inputs, *wanted).code == 0
        card = card_of(output)
        losses[layers] = card["merged"]["loss"]
        assert card["layers"] == layers
    assert losses["sequential"] < losses["mean"]


def test_layers_are_fitted_on_samples(tmp_path: Path, capsys: Capsys, pair: tuple[Path, Path]) -> None:
    ran = run(capsys, "merge", *pair, MLP, "--layers", "sequential", "-o", tmp_path / "out.safetensors")
    assert ran.code == 19
    assert "--layers sequential looks at samples: add --data PATH" in ran.err


def test_held_out_samples_alone_are_not_passed_over(
    tmp_path: Path, pair: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "merge", *pair, MLP, "--held-out", "digits", "-o", tmp_path / "out.safetensors")
    assert ran.code == 19
    assert "--held-out measures what is merged with --data: name both" in ran.err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("method", ["weights", "activations", "straight-through"])
def test_half_precision_is_matched_by_every_method_and_comes_back_in_it(
    tmp_path: Path, capsys: Capsys, method: str
) -> None:
    states = [{name: t.bfloat16() for name, t in perceptron(seed).state_dict().items()} for seed in (0, 1)]
    inputs = [write_state(tmp_path / f"{k}.safetensors", state) for k, state in enumerate(states)]
    output = tmp_path / "out.safetensors"
    ran = run(capsys, "merge", *inputs, MLP, DATA, "--method", method, "--steps", "3", "-o", output)
    assert ran.code == 0
    assert {tensor.dtype for tensor in read_tensors(output).values()} == {torch.bfloat16}


def test_shares_weigh_the_aligned_networks(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", "--weights", "1,3")
    a, b = (read_tensors(path) for path in pair)
    spec = derive_spec(perceptron(0), (torch.randn(2, 1, 8, 8),))
    found = match_weights(spec, a, b, generator=torch.Generator().manual_seed(0))
    expected = weighted_mean([a, permute(spec, found.permutation, b)], [0.25, 0.75])
    merged = read_tensors(tmp_path / "out.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("method", ["weights", "activations", "straight-through"])
def test_the_same_inputs_give_the_same_bytes(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, method: str
) -> None:
    for folder in ("one", "two"):
        output = tmp_path / folder / "out.safetensors"
        ran = run(capsys, "merge", *pair, MLP, "-o", output, DATA, "--method", method, "--points", "3", "--steps", "4")
        assert ran.code == 0, ran.err
    for name in ("out.safetensors", "out.md", "out.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_card_names_inputs_and_output_by_their_hashes(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    output = tmp_path / "out.safetensors"
    run(capsys, "merge", *pair, MLP, "-o", output, "--weights", "3,1", "--seed", "7")
    card = card_of(output)
    assert card["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pair]
    assert [each["sha256"] for each in card["inputs"]] == hashes
    assert [each["file"] for each in card["inputs"]] == ["a.safetensors", "b.safetensors"]
    assert [each["weight"] for each in card["inputs"]] == [0.75, 0.25]
    assert (card["method"], card["seed"]) == ("weights", 7)
    assert card["inputs"][0]["matching"] is None
    assert card["inputs"][1]["matching"]["gain"] > 0
    assert 0 < card["inputs"][1]["moved"] <= 1
    assert set(card["versions"]) == {"python", "torch", "fedrebasin", "numpy", "scipy", "safetensors"}
    page = output.with_suffix(".md").read_text()
    assert all(each in page for each in [*hashes, card["sha256"]])


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: Capsys) -> None:
    inputs: list[Path] = []
    for seed, site in enumerate(("eu", "us")):
        (tmp_path / site).mkdir()
        inputs.append(write(tmp_path / site / "w.safetensors", perceptron(seed)))
    run(capsys, "merge", *inputs, MLP, "-o", tmp_path / "out.safetensors")
    assert [each["file"] for each in card_of(tmp_path / "out.safetensors")["inputs"]] == [
        "eu/w.safetensors",
        "us/w.safetensors",
    ]


def test_json_on_standard_output_is_the_card(tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys) -> None:
    ran = run(capsys, "merge", *residuals, RESNET, "-o", tmp_path / "out.safetensors", "--format", "json")
    assert json.loads(ran.out) == card_of(tmp_path / "out.safetensors")


def test_a_batch_norm_merge_without_data_says_that_it_is_at_chance(
    tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys
) -> None:
    output = tmp_path / "out.safetensors"
    ran = run(capsys, "merge", *residuals, RESNET, "-o", output)
    assert ran.code == 0
    assert "warning: The BatchNorm statistics are stale" in ran.err
    assert card_of(output)["statistics"] == "stale"
    assert "**Do not use as it is.** The BatchNorm statistics are stale" in output.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("more", "told"), [((), ""), (("--shape", "1x8x8"), "1x8x8"), ((DATA,), "1x8x8")], ids=["nothing", "shape", "data"]
)
def test_the_card_states_no_shape_that_nothing_tells(
    tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys, more: tuple[str, ...], told: str
) -> None:
    ran = run(capsys, "merge", *residuals, RESNET, *more, "-o", tmp_path / "out.safetensors")
    assert ran.code == 0
    card = card_of(tmp_path / "out.safetensors")
    assert card["network"]["shape"] == told
    assert ("shape" in (tmp_path / "out.md").read_text().split("## Inputs")[0]) == bool(told)
    assert card["inputs"][1]["matching"]["seconds"] is None


def test_data_recalibrate_batch_norm(tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys) -> None:
    output = tmp_path / "out.safetensors"
    ran = run(capsys, "merge", *residuals, RESNET, "-o", output, DATA, "--points", "3", "--batch-size", "999")
    assert "stale" not in ran.err
    assert card_of(output)["statistics"] == "recalibrated"
    merged = read_tensors(output)
    twin = deepcopy(residual(0))
    twin.load_state_dict(merged)
    recalibrate(twin, [some_digits()[0]])
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(merged[name], tensor)


def test_inputs_are_measured_as_they_are_beside_recalibrated_lines_and_all_say_so(
    tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys
) -> None:
    options = (RESNET, DATA, "--points", "3", "--batch-size", "999")
    ran = run(capsys, "merge", *residuals, *options, "-o", tmp_path / "out.safetensors")
    card = card_of(tmp_path / "out.safetensors")
    ends = json.loads(run(capsys, "barrier", *residuals, *options, "--format", "json").out)
    as_it_is = loss_sums(residual(0), read_tensors(residuals[0]), [some_digits()], cross_entropy)
    assert card["inputs"][0]["score"]["loss"] == pytest.approx(as_it_is.loss / as_it_is.count, rel=1e-4)
    assert card["inputs"][0]["score"]["loss"] != pytest.approx(ends["paths"]["naive"]["losses"][0], rel=1e-2)
    assert card["inputs"][1]["barrier"] == ends["barrier"]
    for told in (ran.out, card["measured"], (tmp_path / "out.md").read_text()):
        assert "The inputs are measured as they are, with the BatchNorm statistics in their files" in told
    for told in (ran.out, (tmp_path / "out.md").read_text()):
        assert ends["definition"] in told


def test_where_nothing_is_recalibrated_nothing_is_said_of_it(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", DATA, "--points", "3")
    assert card_of(tmp_path / "out.safetensors")["measured"] == ""
    assert "as they are" not in ran.out + (tmp_path / "out.md").read_text()


def test_a_network_without_statistics_has_nothing_to_warn_of(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors")
    assert ran.err == ""
    assert card_of(tmp_path / "out.safetensors")["statistics"] == "none"


def test_the_card_speaks_of_the_statistics_of_batch_norm_alone(tmp_path: Path, capsys: Capsys) -> None:
    inputs = [write(tmp_path / f"{seed}.safetensors", InstanceNormed()) for seed in (0, 1)]
    model = ("--model", "tests.commands:instance_normed", "--shape", "1x8x8")
    assert run(capsys, "merge", *inputs, *model, "-o", tmp_path / "out.safetensors").code == 0
    page = (tmp_path / "out.md").read_text()
    assert "no BatchNorm statistics to recalibrate. Running statistics of other layers" in page


def test_a_head_that_the_run_passes_over_is_warned_of(tmp_path: Path, capsys: Capsys) -> None:
    inputs = [write(tmp_path / f"{seed}.safetensors", TwoHeads()) for seed in (0, 1)]
    model = ("--model", "tests.commands:two_heads", "--shape", "64")
    ran = run(capsys, "merge", *inputs, *model, "-o", tmp_path / "out.safetensors")
    assert ran.code == 0
    assert "warning: tensor 'heads.1.weight' is without a say in the outputs of the traced run and stays" in ran.err
    assert "give an --example whose forward uses all heads" in ran.err


def test_with_data_the_card_says_what_the_merge_is_worth(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    output = tmp_path / "out.safetensors"
    run(capsys, "merge", *pair, MLP, "-o", output, DATA, HELD_OUT, "--method", "activations", "--points", "5")
    card = card_of(output)
    assert (card["data"]["samples"], card["held_out"]["samples"]) == (256, 256)
    assert card["data"]["sha256"] != card["held_out"]["sha256"]
    assert all(each["score"]["accuracy"] > 0.8 for each in card["inputs"])
    assert card["merged"]["accuracy"] > card["naive"]["accuracy"]
    barrier = card["inputs"][1]["barrier"]
    assert barrier["aligned"] < barrier["naive"]
    assert "max over λ" in barrier["definition"]


def test_without_held_out_samples_the_card_says_that_it_flatters(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    options = ("--method", "activations", "--points", "3")
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", DATA, *options)
    assert "which flatters it" in ran.err
    assert "which flatters it" in (tmp_path / "out.md").read_text()


def test_samples_that_a_merge_by_weights_did_not_use_flatter_nothing(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", DATA, "--points", "3")
    assert "flatters" not in ran.err
    assert "the merge was made without any" in (tmp_path / "out.md").read_text()


def test_dtypes_come_back(tmp_path: Path, capsys: Capsys) -> None:
    inputs: list[Path] = []
    for seed in (0, 1):
        state = {name: tensor.bfloat16() for name, tensor in perceptron(seed).state_dict().items()}
        inputs.append(write_state(tmp_path / f"{seed}.safetensors", state))
    run(capsys, "merge", *inputs, MLP, "-o", tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "out.safetensors").values()} == {torch.bfloat16}


def test_tied_tensors_that_a_file_holds_once_are_merged_once(tmp_path: Path, capsys: Capsys) -> None:
    inputs = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for seed, path in enumerate(inputs):
        torch.manual_seed(seed)
        save_model(Tagger(), str(path))
    output = tmp_path / "out.safetensors"
    tokens = ("--model", "tests.commands:tagger", "--data", "tests.commands:tagged")
    ran = run(capsys, "merge", *inputs, "-o", output, *tokens, "--points", "3")
    assert ran.code == 0, ran.err
    assert set(read_tensors(output)) == set(read_tensors(inputs[0]))
    assert len(read_tensors(output)) == 3


def test_a_network_of_which_nothing_moves_is_merged_with_a_warning(tmp_path: Path, capsys: Capsys) -> None:
    inputs = [write_state(tmp_path / f"{n}.safetensors", _one_layer(float(n))) for n in (0, 1)]
    options = ("--model", "tests.commands:immovable", "--shape", "4", "-o", tmp_path / "out.safetensors")
    ran = run(capsys, "merge", *inputs, *options)
    assert "Nothing in this network may move" in ran.err
    assert read_tensors(tmp_path / "out.safetensors")["only.bias"].tolist() == [0.5, 0.5, 0.5]


def _one_layer(value: float) -> dict[str, Tensor]:
    return {"only.weight": torch.full((3, 4), value), "only.bias": torch.full((3,), value)}


def test_force_replaces_the_output(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    output = tmp_path / "out.safetensors"
    for path in (output, output.with_suffix(".md"), output.with_suffix(".json")):
        path.write_text("old")
    assert run(capsys, "merge", *pair, MLP, "-o", output, "--force").code == 0
    assert len(read_tensors(output)) == len(read_tensors(pair[0]))
    assert card_of(output)["file"] == "out.safetensors"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("problem", "code"), [(OptionError("no more"), 19), (KeyboardInterrupt(), 130)])
def test_a_merge_that_ends_while_it_is_measured_leaves_all_as_it_was(
    tmp_path: Path,
    pair: tuple[Path, Path],
    capsys: Capsys,
    monkeypatch: pytest.MonkeyPatch,
    force: bool,
    problem: BaseException,
    code: int,
) -> None:
    output = tmp_path / "new" / "out.safetensors"
    if force:
        output.parent.mkdir()
        for path in (output, output.with_suffix(".md"), output.with_suffix(".json")):
            path.write_text("old")
    before = {path: path.read_bytes() for path in output.parent.glob("*")}

    def fails(*_: object) -> None:
        raise problem

    monkeypatch.setattr("cli.merging.check_spec", fails)
    assert run(capsys, "merge", *pair, MLP, "-o", output, *(["--force"] if force else [])).code == code
    assert {path: path.read_bytes() for path in output.parent.glob("*")} == before


def test_a_card_that_cannot_be_written_leaves_no_network(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    output = tmp_path / "new" / "out.safetensors"
    output.parent.mkdir()
    # Not even root writes a file where a folder is.
    (output.parent / ".out.json.partial").mkdir()
    ran = run(capsys, "merge", *pair, MLP, "-o", output)
    assert (ran.code, "out.safetensors: cannot be written" in ran.err) == (18, True)
    assert [path.name for path in output.parent.iterdir()] == [".out.json.partial"]


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "fc.bias"}


def _wide_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "layers.1.0.weight": torch.zeros(7, 16)}


def _with_stranger(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "stranger": torch.zeros(1)}


def _wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def _diverged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "fc.bias": torch.full((10,), torch.nan)}


def _diverged_in_fp8(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in _diverged(state).items()}


def _quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (tensor * 50).to(torch.int8) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_quantised, ["b.safetensors: tensor '", "holds whole numbers (int8), expected floats (float32)"]),
        (_without_head, ["b.safetensors does not fit mlp", "tensor 'fc.bias' is missing"]),
        (_wide_head, ["tensor 'layers.1.0.weight' has shape 7x16, expected 16x16", "a.safetensors fits, so these are"]),
        (_with_stranger, ["tensor 'stranger' is not of this network"]),
        (_wrapped, ["begins with 'module.'", "save the wrapped network"]),
        (_diverged, ["b.safetensors: tensor 'fc.bias' holds NaN or infinity"]),
        (_diverged_in_fp8, ["b.safetensors: tensor 'fc.bias' holds NaN or infinity"]),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_tensor(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, change: Change, words: list[str]
) -> None:
    write_state(pair[1], change(read_tensors(pair[1])))
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors")
    assert ran.code == 17
    assert all(word in ran.err for word in words), ran.err
    assert not (tmp_path / "out.safetensors").exists()


def test_where_no_file_fits_before_it_the_options_are_named(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    write_state(pair[0], _wide_head(read_tensors(pair[0])))
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors")
    assert ran.code == 17
    assert "Say how the network was built: --model" in ran.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--weights", "1,2,3"), 19, "3 numbers for 2 inputs"),
        (("--weights", "1,x"), 19, "expected numbers with commas"),
        (("--weights", "1,0"), 19, "expected positive numbers"),
        (("--weights", "1e308,1e308"), 19, "their sum is more than a float can hold"),
        (("--points", "2"), 2, "--points"),
        (("--seed", "99999999999999999999999"), 2, "--seed"),
        (("--shape=-1x8",), 19, "--shape '-1x8': expected sizes with x between them"),
        (("--shape", "0x8"), 19, "expected sizes with x between them"),
        (("--shape", "99999999999999999999x8"), 19, "expected sizes with x between them"),
        (("--example", "tests.test_cli_merge:fails"), 10, "it raised RuntimeError: no scanner"),
        (("--method", "activations"), 19, "add --data PATH"),
        (("--method", "straight-through"), 19, "add --data PATH"),
        (("--data", "no/such/place"), 12, "no such file or folder"),
        (("--classes", "7"), 17, "'fc.weight' has shape 10x16, expected 7x16"),
        (("--shape", "9xlives"), 19, "expected sizes with x between them"),
        (("--data", "tests.commands:some_digits", "--shape", "3x3"), 17, "does not run on inputs of shape"),
        (("--model", "mpl"), 10, "did you mean 'mlp'"),
        (("--model", "mpl", "--shape", "64", "--classes", "10"), 10, "did you mean 'mlp'"),
        (("--model", "resnet20", "--shape", "1x8x8"), 19, "--classes"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, options: tuple[str, ...], code: int, words: str
) -> None:
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", *options)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert not list(tmp_path.glob("out*"))


DIGITS, COLOURS = "--data=tests.commands:some_digits", "--data=tests.commands:colours"
ADVICE = "Give data of the kind that it was trained on"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((MLP, DIGITS, "--shape=3x3"), ["are 1x8x8, and --shape 3x3 was given", "64 numbers", "Leave out --shape"]),
        ((MLP, COLOURS, "--shape=1x8x8"), ["are 3x4x4, and --shape 1x8x8 was given", "64 numbers", ADVICE]),
        ((MLP, COLOURS), ["its samples are 3x4x4, but the network there takes 64 numbers in any shape", ADVICE]),
        ((TWO_HEADS, COLOURS), ["The data's samples are 3x4x4.", ADVICE]),
        ((TWO_HEADS, "--shape=3x4x4"), ["--shape 3x4x4 was given. Give the shape that the network takes"]),
        ((TWO_HEADS, "--example=tests.commands:sentences"), ["what --example tests.commands:sentences returns"]),
    ],
)
def test_inputs_that_do_not_fit_are_told_by_who_gave_them_and_by_what_the_network_takes(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, options: tuple[str, ...], words: list[str]
) -> None:
    ran = run(capsys, "merge", *pair, "-o", tmp_path / "out.safetensors", *options)
    assert (ran.code, ran.out) == (17, "")
    assert all(word in ran.err for word in words), ran.err
    assert "Give --shape" not in ran.err
    assert ("Give data" in ran.err) is (ADVICE in words)


def test_images_with_other_channels_are_told_what_the_weights_take(
    tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys
) -> None:
    ran = run(capsys, "merge", *residuals, RESNET, COLOURS, "-o", tmp_path / "out.safetensors")
    assert ran.code == 17
    assert "its samples are 3x4x4, but the network there takes 1xHEIGHTxWIDTH" in ran.err


@pytest.mark.parametrize(("prefix", "by"), [("module.", apart), ("_orig_mod.module.", here), ("model.", here)])
def test_the_advice_unwraps_a_file_of_wrapped_names(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, prefix: str, by: Callable[[str], None]
) -> None:
    write_state(pair[1], {f"{prefix}{name}": tensor for name, tensor in read_tensors(pair[1]).items()})
    output = tmp_path / "out.safetensors"
    ran = run(capsys, "merge", *pair, MLP, "-o", output)
    by(advised(ran.err))
    assert run(capsys, "merge", pair[0], tmp_path / "b.converted.safetensors", MLP, "-o", output).code == 0


def fails() -> object:
    """An ``--example`` that does not work."""
    raise RuntimeError("no scanner")


def test_floats_where_the_network_counts_are_refused(
    tmp_path: Path, residuals: tuple[Path, Path], capsys: Capsys
) -> None:
    state = read_tensors(residuals[0])
    write_state(residuals[0], {name: tensor.half() for name, tensor in state.items()})
    ran = run(capsys, "merge", *residuals, RESNET, "--shape", "1x8x8", "-o", tmp_path / "out.safetensors")
    assert ran.code == 17
    assert "num_batches_tracked' holds floats (float16), expected whole numbers (int64)" in ran.err


def test_one_network_alone_is_no_merge(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    ran = run(capsys, "merge", pair[0], MLP, "-o", tmp_path / "out.safetensors")
    assert ran.code == 19
    assert "two or more" in ran.err


@pytest.mark.parametrize("there", ["out.safetensors", "out.md", "out.json"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, there: str) -> None:
    (tmp_path / there).write_text("mine")
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors")
    assert ran.code == 18
    assert f"{there} exists: choose another name, or add --force" in ran.err
    assert (tmp_path / there).read_text() == "mine"


def test_an_input_is_not_overwritten_even_by_force(tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys) -> None:
    before = pair[0].read_bytes()
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "sub" / ".." / "a.safetensors", "--force")
    assert (ran.code, pair[0].read_bytes()) == (18, before)
    assert "is one of the inputs" in ran.err


@pytest.mark.parametrize(("name", "words"), [("out.pt", "-o "), ("file/out.safetensors", "expected a folder")])
def test_an_output_that_cannot_be_is_refused(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, name: str, words: str
) -> None:
    (tmp_path / "file").write_text("")
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / name)
    assert ran.code == 18
    assert words in ran.err


def test_a_folder_that_lacks_a_class_is_numbered_by_the_names_that_are_given(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    folder = write_images(tmp_path / "pictures", 0, 300)
    shutil.rmtree(folder / "0")
    asked = ("merge", *pair, MLP, "--data", folder, "-o", tmp_path / "out.safetensors", "--points", "3")
    ran = run(capsys, *asked)
    assert ran.code == 17
    assert "the data has 9 classes, 1, 2, 3, 4, 5, 6, 7, 8, 9, but mlp (shape 1x8x8, classes 10" in ran.err
    assert "has 10 outputs; name all, in the order of the outputs, with --class-names" in ran.err
    assert "class '9' is none of 'class-names'" in run(capsys, *asked, "--class-names", "0,1,2,3,4,5,6,7,8,nine").err
    twice = run(capsys, *asked, "--class-names", "0,1,2,3,4,5,6,7,8,8")
    assert (twice.code, "expected different names" in twice.err) == (19, True)
    assert run(capsys, *asked, "--class-names", "0,1,2,3,4,5,6,7,8,9").code == 0
    assert card_of(tmp_path / "out.safetensors")["inputs"][0]["score"]["accuracy"] > 0.8


def test_held_out_samples_that_are_those_of_the_data_flatter(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    same = (DATA, DATA.replace("--data", "--held-out"), "--method", "activations", "--points", "3")
    ran = run(capsys, "merge", *pair, MLP, "-o", tmp_path / "out.safetensors", *same)
    assert "which flatters it" in ran.err
