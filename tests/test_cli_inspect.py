"""`fedrebasin inspect`: what moves, what does not and why, and the proof."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.commands import every_command, itself, perceptron, run, write

Capsys = pytest.CaptureFixture[str]
FRESH = ("inspect", "--model", "resnet20", "--shape", "1x8x8", "--classes", "3", "--width", "4", "--depth", "8")


def test_every_group_is_listed_with_its_units_and_tensors(capsys: Capsys) -> None:
    found = json.loads(run(capsys, *FRESH, "--format", "json").out)
    units = {group["name"]: group["units"] for group in found["groups"]}
    assert units["layer1.0.conv1"] == 4
    assert units["layer3.0.conv2"] == 16
    inner = next(group for group in found["groups"] if group["name"] == "layer1.0.conv1")
    assert "layer1.0.bn1.running_var" in inner["tensors"]
    n_biases_of_the_head = 3
    assert found["moving_parameters"] == found["parameters"] - n_biases_of_the_head


def test_what_stays_fixed_is_listed_with_the_reason(capsys: Capsys) -> None:
    found = json.loads(run(capsys, *FRESH, "--format", "json").out)
    reasons = {(each["tensor"], each["axis"]): each["reason"] for each in found["fixed"]}
    assert reasons["fc.weight", 0] == "network output"
    assert "kernel" in reasons["conv1.weight", 3]


def test_the_proof_is_a_small_difference(capsys: Capsys) -> None:
    ran = run(capsys, *FRESH)
    found = json.loads(run(capsys, *FRESH, "--format", "json").out)
    assert 0 < found["proof"]["difference"] < 1e-4
    assert "proof: outputs differ by at most" in ran.out
    assert "network output" in ran.out


def test_the_proof_counts_the_permutations_that_were_drawn(capsys: Capsys) -> None:
    """More than three where groups are small: of two units every other one changes nothing."""
    narrow = ("inspect", "--model", "mlp", "--shape", "4", "--classes", "3", "--width", "2")
    assert json.loads(run(capsys, *narrow, "--format", "json").out)["proof"]["trials"] == 14
    assert "over 14 random permutations of all groups" in run(capsys, *narrow).out


def test_a_file_gives_the_sizes_and_the_weights_of_the_proof(tmp_path: Path, capsys: Capsys) -> None:
    file = write(tmp_path / "a.safetensors", perceptron(0))
    found = json.loads(run(capsys, "inspect", file, "--model", "mlp", "--format", "json").out)
    assert [group["units"] for group in found["groups"]] == [16, 16]
    assert found["network"]["classes"] == 10
    assert found["proof"]["weights"] == "a.safetensors"


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        (("--model", "tests.commands:two_heads", "--shape", "64"), 10),
        (("--model", "tests.commands:tagger", "--example", "tests.commands:sentences"), 11),
        (("--model", "tests.commands:answers_axis", "--shape", "64"), None),
    ],
)
def test_of_a_network_of_ones_own_the_classes_are_its_outputs_or_not_known(
    options: tuple[str, ...], classes: int | None, capsys: Capsys
) -> None:
    assert json.loads(run(capsys, "inspect", *options, "--format", "json").out)["network"]["classes"] == classes
    title = run(capsys, "inspect", *options).out.splitlines()[0]
    assert f"classes {classes}" in title if classes else "classes" not in title


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--model", "mlp"), 19, "--shape 3x32x32"),
        (("--model", "nosuch"), 10, "model 'nosuch' is unknown"),
        (("--model", "no.such:network"), 10, "no module 'no'"),
        (("--model", "tests.commands:tagger", "--example", "nosuch:thing"), 10, "--example 'nosuch:thing': no module"),
        (("--model", "mlp", "--shape", "4"), 19, "--classes 10"),
        (("--model", "resnet20", "--shape", "4", "--classes", "2"), 10, "expected (channels, height, width)"),
        (("--model", "tests.commands:tagger", "--shape", "3"), 17, "--example"),
        (("--model", "no.such:network", "--shape", "3"), 10, "no module 'no'"),
        (
            ("--model", "mlp", "--width", "999999999", "--shape", "64", "--classes", "10"),
            19,
            "--model, --width, --depth, --shape and --classes: 'mlp' of width 999999999 takes",
        ),
        (
            ("--model", "tests.commands:immovable", "--shape", "9999999999x9999999999"),
            19,
            "--shape '9999999999x9999999999': two such samples cannot be made",
        ),
        (("missing.safetensors", "--model", "mlp"), 16, "missing.safetensors: no such file"),
    ],
)
def test_what_cannot_be_inspected_is_refused_with_the_way_out(
    capsys: Capsys, options: tuple[str, ...], code: int, words: str
) -> None:
    ran = run(capsys, "inspect", *options)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_a_network_that_takes_tokens_is_inspected_on_an_example(capsys: Capsys) -> None:
    options = ("--model", "tests.commands:tagger", "--example", "tests.commands:sentences", "--format", "json")
    found = json.loads(run(capsys, "inspect", *options).out)
    # One table at both ends ties what enters the hidden layer to what leaves it.
    assert [group["tensors"] for group in found["groups"]] == [
        ["embedding.weight", "hidden.weight", "hidden.bias", "head.weight"]
    ]


def test_a_network_in_the_current_folder_is_found(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from torch import nn\ndef make(_):\n    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))\n"
    (tmp_path / "mine_alone.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ran = run(capsys, "inspect", "--model", "mine_alone:make", "--shape", "4", "--format", "json")
    assert [group["units"] for group in json.loads(ran.out)["groups"]] == [5]


def test_what_a_module_prints_does_not_stand_before_the_answer(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from torch import nn\nprint('loading')\n"
    code += "def make(_):\n    print('making')\n    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))\n"
    (tmp_path / "talks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ran = run(capsys, "inspect", "--model", "talks:make", "--shape", "4", "--format", "json")
    assert [group["units"] for group in json.loads(ran.out)["groups"]] == [5]
    assert "loading" in ran.err
    assert "making" in ran.err
    # For people nothing changes, nor for what runs in the same process afterwards.
    ran = run(capsys, "inspect", "--model", "talks:make", "--shape", "4")
    assert ran.out.startswith("making")


def test_the_answer_is_whole_where_only_the_command_itself_is_run() -> None:
    done = CliRunner().invoke(app, [*FRESH, "--format", "json"])
    assert json.loads(done.stdout)["groups"]


def test_every_command_that_answers_in_json_keeps_its_answer_alone() -> None:
    found = 0
    for command in every_command():
        for parameter in itself(command).params:
            if "--format" in parameter.opts:
                assert parameter.callback is not None, command.name
                found += 1
    assert found > 10


def test_a_head_that_the_run_passes_over_is_warned_of(capsys: Capsys) -> None:
    options = ("inspect", "--model", "tests.commands:two_heads", "--shape", "64")
    assert (
        "tensor 'heads.1.weight' is without a say in the outputs of the traced run and stays"
        in run(capsys, *options).err
    )
    assert json.loads(run(capsys, *options, "--format", "json").out)["unread"] == ["heads.1.weight"]


def test_a_network_of_which_nothing_moves_is_said_to_be_one(capsys: Capsys) -> None:
    ran = run(capsys, "inspect", "--model", "tests.commands:immovable", "--shape", "4")
    assert ran.code == 0
    assert "nothing may move" in ran.err
    assert "network input" in ran.out
