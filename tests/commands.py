"""Running `fedrebasin` inside the test's process, on small networks in files."""

import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import click
import pytest
import torch
import typer
from torch import Tensor, nn

from alignment.permutation import permute, random_permutation
from alignment.tracing import derive_spec
from cli.late import Late
from cli.main import app, main
from models import Architecture
from strategies.tensor_files import write_tensors
from tests.trained import digits, trained

MLP = "--model=mlp"
RESNET = "--model=resnet20"
DATA = "--data=tests.commands:some_digits"
HELD_OUT = "--held-out=tests.commands:other_digits"


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ran:
    """``fedrebasin arguments…``, from its first line to its exit."""
    with patch("sys.argv", ["fedrebasin", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return Ran(int(ended.value.code or 0), told.out, told.err)


def advised(message: str) -> str:
    """The one command of Python's that a message advises, which may be of several lines."""
    (command,) = re.findall(r"^python -c '[^']*'.*", message, re.MULTILINE)
    return command


def apart(advice: str) -> None:
    """Does what an error advises, ``python -c code arguments…``, as a process of its own."""
    subprocess.run([sys.executable, *shlex.split(advice)[1:]], check=True, timeout=120)


def here(advice: str) -> None:
    """Does it in this process, which has torch."""
    python, option, code, *arguments = shlex.split(advice)
    assert (python, option) == ("python", "-c")
    with patch("sys.argv", ["-c", *arguments]), warnings.catch_warnings():
        # Such a command leaves it to its end to close its files.
        warnings.simplefilter("ignore", ResourceWarning)
        exec(code, {"__name__": "__main__"})


def itself(command: click.Command) -> click.Command:
    """The command, imported where it was not yet."""
    return command.imported if isinstance(command, Late) else command


def every_command() -> Iterator[click.Command]:
    """All commands and groups of ``fedrebasin``, as their groups hold them."""
    waiting = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting += command.commands.values() if isinstance(command, click.Group) else []
        yield command


def run_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> Ran:
    """``fedrebasin settings`` of a file that holds ``text``."""
    (tmp_path / "run.toml").write_text(text)
    return run(capsys, "settings", tmp_path / "run.toml")


def run_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> Ran:
    """``fedrebasin demo`` of a run config that holds ``text``, in a folder of its own."""
    (tmp_path / "run.toml").write_text(text)
    runs = ("--runs", tmp_path / "runs")
    return run(capsys, "demo", "--run-config", tmp_path / "run.toml", *runs, *options)


def some_digits() -> tuple[Tensor, Tensor]:
    """Samples as ``--data`` wants them."""
    images, labels = zip(*digits()[0][:2], strict=True)
    return torch.cat(images), torch.cat(labels)


def other_digits() -> tuple[Tensor, Tensor]:
    """Samples that `some_digits` has not."""
    return digits()[1][0]


def colours() -> tuple[Tensor, Tensor]:
    """Samples of another shape than `some_digits`."""
    return torch.zeros(20, 3, 4, 4), torch.arange(20) % 10


def perceptron(seed: int) -> nn.Module:
    """A small MLP that has learnt."""
    return trained("mlp", "none", 16, seed, 2)


def residual(seed: int) -> nn.Module:
    """A small ResNet with BatchNorm that has learnt."""
    return trained("resnet20", "batch", 4, seed, 8, 3)


def write(path: Path, model: nn.Module) -> Path:
    """The network's state as a safetensors file."""
    return write_state(path, model.state_dict())


def write_state(path: Path, state: dict[str, Tensor]) -> Path:
    """``state`` as a safetensors file."""
    return write_tensors(path, state)


def shuffled(model: nn.Module, seed: int, *example: Tensor) -> dict[str, Tensor]:
    """The state of ``model`` with its units in another order: the same function."""
    spec = derive_spec(model, example or (torch.randn(2, 1, 8, 8),))
    return permute(spec, random_permutation(spec, torch.Generator().manual_seed(seed)), model.state_dict())


class Tagger(nn.Module):
    """Tokens to classes, with one table at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of the next token, from the mean of all."""
        return self.head(self.hidden(self.embedding(tokens).mean(1)).relu())


def tagger(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:tagger`` builds."""
    return Tagger()


def sentences() -> tuple[Tensor]:
    """What ``--example tests.commands:sentences`` gives: two samples of three tokens."""
    return (torch.tensor([[1, 2, 3], [4, 5, 10]]),)


def tagged() -> tuple[Tensor, Tensor]:
    """Tokens and classes as ``--data``."""
    tokens = torch.arange(60).reshape(20, 3) % 11
    return tokens, tokens[:, 0]


class Sorted(nn.Module):
    """A network of which nothing may move."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """One layer, from input to output."""
        return self.only(x)


def immovable(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:immovable`` builds."""
    return Sorted()


class TwoHeads(nn.Module):
    """A head for each of two tasks, of which a run uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(64, 16)
        self.heads = nn.ModuleList([nn.Linear(16, 10), nn.Linear(16, 5)])

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        """The logits of one task."""
        return self.heads[task](self.trunk(x.flatten(1)).relu())


def two_heads(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:two_heads`` builds."""
    return TwoHeads()


class InstanceNormed(nn.Module):
    """A network with running statistics that are not BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def instance_normed(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:instance_normed`` builds."""
    return InstanceNormed()


class Answering(nn.Module):
    """A network that answers with more than logits."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.only = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> object:
        """The logits, in a dict, in a tuple, or with an axis after the classes."""
        logits = self.only(x.flatten(1))
        return {"dict": {"logits": logits}, "tuple": (logits, x), "axis": logits[:, :, None]}[self.shape]


def answers_dict(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:answers_dict`` builds."""
    return Answering("dict")


def answers_tuple(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:answers_tuple`` builds."""
    return Answering("tuple")


def answers_axis(_: Architecture) -> nn.Module:
    """What ``--model tests.commands:answers_axis`` builds."""
    return Answering("axis")
