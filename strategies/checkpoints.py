"""Networks in files that anybody may have handed over: safetensors, and nothing that could run code."""

import shlex
from itertools import chain, count
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from strategies.errors import OperatorError
from strategies.files import out_of_sight
from strategies.tensor_files import read_tensors

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"})
# torch.save writes a zip archive; before version 1.6, and other tools, a bare pickle of protocol 2 to 5.
PICKLE_BEGINNINGS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What a user pastes: short lines, and no single quote, which a shell would need three more for.
# Opened by itself, since torch.load goes by the name. Training scripts keep the weights under one of these keys, beside
# the optimiser's state; DataParallel and torch.compile put a prefix before every name.
CONVERSION = """
import os, re, sys, torch
from safetensors.torch import save_file
d = torch.load(open(sys.argv[1], "rb"), map_location="cpu", weights_only=True)
keys = "state_dict", "model_state_dict", "model", "net"
d = next((d[k] for k in keys if isinstance(d.get(k), dict)), d)
d = {k: v.contiguous().clone() for k, v in d.items() if torch.is_tensor(v)}
p = re.match(r"((module|_orig_mod)[.])*", os.path.commonprefix(list(d))).end()
save_file({k[p:]: v for k, v in d.items()}, sys.argv[2])
"""
# For a safetensors file in which some prefix, such as that of a training framework, stands before every name.
UNWRAPPING = """
import sys
from safetensors.torch import load_file, save_file
d = load_file(sys.argv[1])
save_file({k.removeprefix(sys.argv[3]): v for k, v in d.items()}, sys.argv[2])
"""
# As Hugging Face's libraries name the list of the files over which they spread a large network.
INDEX = ".safetensors.index.json"
JOINING = """
import json, os, sys
from safetensors.torch import load_file, save_file
files = sorted(set(json.load(open(sys.argv[1]))["weight_map"].values()))
folder = os.path.dirname(sys.argv[1])
parts = [load_file(os.path.join(folder, f)) for f in files]
save_file({k: v for part in parts for k, v in part.items()}, sys.argv[2])
"""


class CheckpointError(OperatorError):
    """A network's file is missing, is no safetensors file, or could run code."""

    exit_code = 16


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of the safetensors file ``path``, on the CPU.

    Raises `CheckpointError` when it is missing or unreadable. A pickle, by its content or by its name, is refused with
    the command that converts it; nothing of it is loaded.
    """
    if why := out_of_sight(path):
        raise CheckpointError(f"{path}: {why}")
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    if path.name.endswith(INDEX):
        whole = _output_for(path.with_name(path.name.removesuffix(INDEX)))
        command = _python(JOINING, path, whole)
        raise CheckpointError(f"{path}: a list of files that hold the network together. Join them into one:\n{command}")
    try:
        _refuse_pickle(path)
        return read_tensors(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}). Was it copied whole? Compare its SHA-256 with the "
            "sender's: sha256sum FILE"
        ) from error


def unwrapping(path: Path, prefix: str) -> str:
    """The command that takes ``prefix`` off every name in the safetensors file ``path``."""
    return _python(UNWRAPPING, path, _output_for(path), prefix)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(9)
    if beginning.startswith(PICKLE_BEGINNINGS) and not beginning.endswith(b"{"):
        raise CheckpointError(f"{path}: a pickle, which can run any code when it is loaded.\n{_advice(path)}")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        if beginning.endswith(b"{"):
            raise CheckpointError(f"{path}: named like a pickle.\nIf it is safetensors, rename it: {_renaming(path)}")
        raise CheckpointError(f"{path}: named like a pickle, which can run any code.\n{_advice(path)}")


def _advice(path: Path) -> str:
    result = _output_for(path)
    converted = _python(CONVERSION, path, result)
    return f"If you trust its maker, convert it:\n{converted}\nThen use {shlex.quote(str(result))} in its place."


def _python(code: str, *arguments: Path | str) -> str:
    return shlex.join(["python", "-c", code, *map(str, arguments)])


def _output_for(path: Path) -> Path:
    """Beside ``path`` and over no file that is there: not ``path`` itself, which may be a pickle by another name."""
    names = chain(["", ".converted"], (f".converted-{number}" for number in count(2)))
    return next(free for name in names if not (free := path.with_suffix(f"{name}.safetensors")).exists())


def _renaming(path: Path) -> str:
    return shlex.join(["mv", str(path), str(_output_for(path))])
