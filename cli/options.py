"""Options that several commands have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from models import FAMILIES


class Method(StrEnum):
    """How units are matched."""

    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    STRAIGHT_THROUGH = "straight-through"


class Layers(StrEnum):
    """How layers are merged, once units are matched."""

    MEAN = "mean"
    SEQUENTIAL = "sequential"


NETWORK = "The network"
Model = Annotated[
    str,
    typer.Option(
        help=f"What the files are weights of: {', '.join(FAMILIES)}, or module:function, a function of yours that is "
        "given a models.Architecture and returns an nn.Module; the current folder is searched too.",
        rich_help_panel=NETWORK,
    ),
]
Shape = Annotated[
    str,
    typer.Option(
        help="One input without the batch, such as 3x32x32. By default as the data has it, or the file.",
        rich_help_panel=NETWORK,
    ),
]
Classes = Annotated[
    int,
    typer.Option(
        min=0, show_default=False, help="Number of outputs. By default as the file has it.", rich_help_panel=NETWORK
    ),
]
Width = Annotated[
    int,
    typer.Option(
        min=0,
        show_default=False,
        help="Units of the narrowest hidden layer. By default as the file has it, else the usual.",
        rich_help_panel=NETWORK,
    ),
]
Depth = Annotated[
    int,
    typer.Option(
        min=0,
        show_default=False,
        help="Layers, as the network's name counts them. By default as the file has it, else the usual.",
        rich_help_panel=NETWORK,
    ),
]
Norm = Annotated[
    str,
    typer.Option(help="batch, layer or none. By default as the file has it, else the usual.", rich_help_panel=NETWORK),
]
Example = Annotated[
    str,
    typer.Option(
        help="module:function that takes nothing and returns the tuple of inputs that the network is called with, for "
        "networks that take tokens, several tensors, or anything but one tensor of floats.",
        rich_help_panel=NETWORK,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="Samples with their classes: digits, a path that datasets reads (parquet, or images in one folder per "
        "class), or module:function that returns (inputs, targets). Bytes are scaled to -1..1, floats and tokens "
        "(int64) taken as they are."
    ),
]
HeldOut = Annotated[
    str,
    typer.Option(help="Other samples to measure on, said as --data. By default the measurements are made on --data."),
]
ClassNames = Annotated[
    str,
    typer.Option(
        help="The classes' names in the order of the network's outputs, such as normal,pneumonia: what folders of "
        "images are called, or a column of parquet holds. Needed where --data lacks a class; else their own order, in "
        "which --held-out is numbered too."
    ),
]
MatchBy = Annotated[
    Method,
    typer.Option(
        help="weights needs no data. activations correlates units on --data: on networks with BatchNorm it is worth "
        "more. straight-through descends on the loss of the middle, on --data: the slowest."
    ),
]
MergeBy = Annotated[
    Layers,
    typer.Option(
        help="mean averages them. sequential fits one after another, on --data, to what it puts out in the inputs: "
        "worth more where networks differ, and slower."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of straight-through.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides order and ties: one seed, one answer.")]
# Both ends are the same with alignment and without, up to rounding: two points would find no difference.
Points = Annotated[int, typer.Option(min=3, help="Points on each path, the ends included.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Samples at a time; memory grows with it.")]
Input = Annotated[Path, typer.Argument(show_default=False, help="A safetensors file.")]
