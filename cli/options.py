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
        help=f"The files' network: {', '.join(FAMILIES)}, or module:function, a function of yours that takes a "
        "models.Architecture and returns an nn.Module. The current folder is searched too.",
        rich_help_panel=NETWORK,
    ),
]
Shape = Annotated[
    str,
    typer.Option(
        help="Shape of one input without batch, such as 3x32x32. By default the data's, or what the file tells.",
        rich_help_panel=NETWORK,
    ),
]
Classes = Annotated[
    int,
    typer.Option(min=0, show_default=False, help="Number of outputs. By default the file's.", rich_help_panel=NETWORK),
]
Width = Annotated[
    int,
    typer.Option(
        min=0,
        show_default=False,
        help="Units of the narrowest hidden layer. By default the file's, else the network's usual.",
        rich_help_panel=NETWORK,
    ),
]
Depth = Annotated[
    int,
    typer.Option(
        min=0,
        show_default=False,
        help="Layers, as the network's name counts them. By default the file's, else the network's usual.",
        rich_help_panel=NETWORK,
    ),
]
Norm = Annotated[
    str,
    typer.Option(
        help="Normalisation: batch, layer or none. By default the file's, else the network's usual.",
        rich_help_panel=NETWORK,
    ),
]
Example = Annotated[
    str,
    typer.Option(
        help="module:function that returns the tuple of inputs to call the network with, and takes no argument. For "
        "networks that take tokens, several tensors, or anything but one tensor of floats.",
        rich_help_panel=NETWORK,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="Samples with their classes: digits, a path that datasets reads (parquet, or images in one folder per "
        "class), or module:function that returns (inputs, targets). Bytes are scaled to -1..1; floats and tokens "
        "(int64) are taken as they are."
    ),
]
HeldOut = Annotated[
    str,
    typer.Option(help="Other samples to measure on, given as for --data. By default those of --data."),
]
ClassNames = Annotated[
    str,
    typer.Option(
        help="Names of the classes in the order of the network's outputs, such as normal,pneumonia: what folders of "
        "images are called, or a column of parquet holds. Needed if --data lacks a class. By default the order of "
        "--data, which numbers --held-out too."
    ),
]
MatchBy = Annotated[
    Method,
    typer.Option(
        help="How to match units. weights needs no data. activations correlates them on --data: worth more on networks "
        "with BatchNorm. straight-through descends on the loss midway between the networks, on --data: the slowest."
    ),
]
MergeBy = Annotated[
    Layers,
    typer.Option(
        help="How to merge layers. mean averages them. sequential fits one after another, on --data, to what it puts "
        "out in the inputs: worth more where networks differ, and slower."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of straight-through.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides order and ties: one seed, one answer.")]
# Both ends are the same with alignment and without, up to rounding: two points would find no difference.
Points = Annotated[int, typer.Option(min=3, help="Points on each line, ends included.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Samples at a time; memory grows with it.")]
Input = Annotated[Path, typer.Argument(show_default=False, help="A safetensors file.")]
