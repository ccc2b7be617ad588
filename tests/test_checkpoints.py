"""Files from anybody: safetensors are read; a pickle is refused by content and by name, and never loaded."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from strategies.checkpoints import CheckpointError, read_checkpoint
from strategies.tensor_files import read_tensors, write_tensors
from tests.commands import advised, apart, here


class Harmful:
    """Leaves a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_safetensors_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 2), "n": torch.tensor(4)}
    write_tensors(tmp_path / "x.safetensors", state)
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_who_may_read_a_network_is_for_the_umask_to_say(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            path = write_tensors(tmp_path / f"{mode:o}.safetensors", {"a": torch.ones(2)})
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.ckpt", "x.bin", "x.safetensors", "x"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_whatever_its_name_and_runs_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(tmp_path / "harm"), protocol))
    with pytest.raises(CheckpointError, match="a pickle, which can run any code"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_what_torch_saves_is_refused_under_a_safe_name(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="a pickle"):
        read_checkpoint(tmp_path / "x.safetensors")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model"])
def test_the_advice_converts_the_file(tmp_path: Path, key: str) -> None:
    state = {"a": torch.randn(4, 3).T, "b": torch.arange(3)}
    torch.save({"epoch": 3, "optimizer": {}, key: state} if key else state, tmp_path / "it's mine.pt")
    converted = convert_as_advised(tmp_path / "it's mine.pt", tmp_path / "it's mine.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("before", "stays"), [("module.", ""), ("_orig_mod.", ""), ("module._orig_mod.", ""), ("modules.", "modules.")]
)
def test_the_advice_takes_off_what_a_wrapper_put_before_every_name(tmp_path: Path, before: str, stays: str) -> None:
    torch.save({f"{before}{name}": torch.ones(3) for name in ("module.a", "b")}, tmp_path / "x.pt")
    converted = convert_as_advised(tmp_path / "x.pt", tmp_path / "x.safetensors")
    assert sorted(converted) == [f"{stays}b", f"{stays}module.a"]


def test_the_advice_leaves_a_pickle_under_a_safe_name_where_it_is(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3), "_extra_state": {"seen": 3}}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    converted = convert_as_advised(tmp_path / "x.safetensors", tmp_path / "x.converted.safetensors", by=apart)
    assert list(converted) == ["a"]
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_the_advice_has_short_lines_and_its_command_no_quote_that_a_shell_would_break(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(tmp_path / "x.pt")
    lines = str(refusal.value).replace(f"{tmp_path}/", "").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Then use x.safetensors in its place."
    assert "'\"'" not in str(refusal.value)


def test_the_advice_names_no_file_that_is_there(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    write_tensors(tmp_path / "y.bin", {"a": torch.ones(1)})
    for taken in ("x.safetensors", "x.converted.safetensors", "y.safetensors"):
        (tmp_path / taken).write_bytes(b"kept")
    assert list(convert_as_advised(tmp_path / "x.pt", tmp_path / "x.converted-2.safetensors")) == ["a"]
    with pytest.raises(CheckpointError, match=r"rename it: mv .*y\.bin .*y\.converted\.safetensors"):
        read_checkpoint(tmp_path / "y.bin")


def convert_as_advised(path: Path, output: Path, by: Callable[[str], None] = here) -> dict[str, Tensor]:
    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(path)
    by(advised(str(refusal.value)))
    return read_tensors(output)


def test_a_network_that_is_spread_over_files_is_joined_by_the_advice(tmp_path: Path) -> None:
    state = {f"layer.{number}": torch.full((2,), float(number)) for number in range(3)}
    for number in range(3):
        write_tensors(tmp_path / f"model-{number}.safetensors", {f"layer.{number}": state[f"layer.{number}"]})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {f"layer.{number}": f"model-{number}.safetensors" for number in range(3)}})
    )
    with pytest.raises(CheckpointError, match="a list of files that hold the network together") as error:
        read_checkpoint(index)
    apart(advised(str(error.value)))
    joined = read_checkpoint(tmp_path / "model.safetensors")
    assert joined.keys() == state.keys()
    assert all(torch.equal(joined[name], tensor) for name, tensor in state.items())


def test_a_safetensors_file_that_is_named_like_a_pickle_is_to_be_renamed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.pt", {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"rename it: mv .*x\.pt .*x\.safetensors"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    # 640 is 0x0280: the file begins with the bytes of a pickle of protocol 2.
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"\x07")
    assert read_checkpoint(path)["a"].tolist() == [7]


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a network", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(100)})
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="Was it copied whole"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("name", "words"), [("none.safetensors", "no such file"), (".", "a folder")])
def test_a_missing_file_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / name)
