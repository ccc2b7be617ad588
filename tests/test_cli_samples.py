"""What `merge` and `barrier` ask of `--data` and `--held-out`: that the network runs on them and has their classes."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli.evidence import Batches
from client.sources import Samples
from tests.commands import DATA, MLP, Answering, perceptron, run, some_digits, write
from tests.deployment.samples import write_images

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two perceptrons that learnt apart."""
    return write(tmp_path / "a.safetensors", perceptron(0)), write(tmp_path / "b.safetensors", perceptron(1))


def command(name: str, tmp_path: Path) -> tuple[str | Path, ...]:
    """``merge`` or ``barrier`` as far as the files."""
    return (name, *(("-o", tmp_path / "out.safetensors") if name == "merge" else ()))


def eleven() -> tuple[Tensor, Tensor]:
    """Samples of a class too many."""
    return torch.zeros(12, 1, 8, 8), torch.arange(12) % 11


def larger() -> tuple[Tensor, Tensor]:
    """Samples of another shape."""
    return torch.zeros(12, 1, 9, 9), torch.arange(12) % 10


def in_bfloat16() -> tuple[Tensor, Tensor]:
    """Samples of a type that NumPy lacks."""
    images, labels = some_digits()
    return images.bfloat16(), labels


def with_gradients() -> tuple[Tensor, Tensor]:
    """Samples that something with weights computed."""
    images, labels = some_digits()
    return images * nn.Parameter(torch.ones(())), labels


@pytest.mark.parametrize("data", ["some_digits", "in_bfloat16", "with_gradients"])
def test_the_card_has_the_bytes_of_samples_whatever_type_they_are_of(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, data: str
) -> None:
    asked = (*command("merge", tmp_path), *pair, MLP, "--data", f"tests.test_cli_samples:{data}", "--points", "3")
    ran = run(capsys, *asked, "--format", "json")
    assert ran.code == 0, ran.err
    images, labels = some_digits()
    pixels = images.bfloat16().view(torch.int16) if data == "in_bfloat16" else images
    expected = hashlib.sha256(pixels.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert json.loads(ran.out)["data"]["sha256"] == expected


@pytest.mark.parametrize("name", ["merge", "barrier"])
@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ("eleven", "--held-out has class 10, but mlp (shape 1x8x8, classes 10"),
        ("larger", "--held-out must be what the network takes"),
    ],
)
def test_held_out_samples_that_the_network_cannot_judge_are_refused(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys, name: str, held_out: str, words: str
) -> None:
    asked = (*command(name, tmp_path), *pair, MLP, DATA, "--held-out", f"tests.test_cli_samples:{held_out}")
    ran = run(capsys, *asked)
    assert (ran.code, ran.out) == (17, "")
    assert words in ran.err


def test_held_out_folders_that_lack_a_class_are_numbered_as_those_of_the_data(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    data, held_out = write_images(tmp_path / "data", 0, 200), write_images(tmp_path / "held-out", 200, 400)
    shutil.rmtree(held_out / "0")
    asked = ("barrier", *pair, MLP, "--data", data, "--held-out", held_out, "--points", "3")
    ran = run(capsys, *asked, "--format", "json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["paths"]["naive"]["accuracies"][0] > 0.8
    (held_out / "1").rename(held_out / "one")
    ran = run(capsys, *asked)
    assert ran.code == 12
    assert "class 'one' is none of --data's, 0, 1, 2" in ran.err
    assert "with --class-names" in ran.err


def test_held_out_folders_that_lack_a_class_are_refused_where_nothing_numbers_them(
    tmp_path: Path, pair: tuple[Path, Path], capsys: Capsys
) -> None:
    held_out = write_images(tmp_path / "held-out", 0, 200)
    shutil.rmtree(held_out / "0")
    ran = run(capsys, "barrier", *pair, MLP, DATA, "--held-out", held_out, "--points", "3")
    assert ran.code == 17
    assert "--held-out has 9 classes, 1, 2, 3, 4, 5, 6, 7, 8, 9, but mlp" in ran.err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("dict", "returns dict with 'logits' for 2 samples of the data; expected one tensor (samples, classes)"),
        ("tuple", "returns tuple of 2 for"),
        ("axis", "returns a tensor of shape 2x10x1 for"),
    ],
)
def test_a_network_that_answers_otherwise_is_to_be_wrapped(
    tmp_path: Path, capsys: Capsys, answer: str, words: str
) -> None:
    inputs = [write(tmp_path / f"{seed}.safetensors", Answering(answer)) for seed in (0, 1)]
    ran = run(capsys, "barrier", *inputs, "--model", f"tests.commands:answers_{answer}", DATA)
    assert ran.code == 17
    assert words in ran.err
    assert "Wrap it in a module whose forward returns that" in ran.err


@pytest.mark.parametrize(("count", "size"), [(1797, 2), (3, 2), (2, 2), (5, 999), (9, 4)])
def test_no_batch_is_a_lone_sample(count: int, size: int) -> None:
    samples = Samples(torch.rand(count, 4), torch.zeros(count, dtype=torch.long))
    batches = Batches("some", samples, torch.arange(count), size)
    sizes = [len(targets) for _, targets in batches]
    assert len(sizes) == len(batches)
    assert sum(sizes) == count
    assert min(sizes) >= 2
