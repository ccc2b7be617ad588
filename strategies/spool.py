"""Replies wait on disk, not in memory: one safetensors file each, read tensor by tensor when the merge comes to it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from alignment.permutation import Permutation, permute_tensor
from alignment.spec import PermutationSpec, State
from strategies.errors import OperatorError
from strategies.files import room_for

# As safetensors calls them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class Place(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class SpooledState(Mapping[str, Tensor]):
    """A state dict on disk, in the order ``names``. Each look reads one tensor, or a part of it, and keeps nothing.

    Read, not mapped: pages of a mapped file would count as this process's memory, for as many sites as there are.
    """

    path: Path
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Tensor:
        place = self._place(name)
        return self._read(place, place.start, place.shape)

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """A part of one tensor along its first axis; only that much is read."""
        place = self._place(name)
        row = math.prod(place.shape[1:]) * place.dtype.itemsize
        return self._read(place, place.start + first * row, (last - first, *place.shape[1:]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise KeyError(name)
        return self._places[name]

    @cached_property
    def _places(self) -> Mapping[str, Place]:
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            # Networks of one shape have one header, which is kept once however many sites there are.
            return _places_in(file.read(size))

    def _read(self, place: Place, start: int, shape: tuple[int, ...]) -> Tensor:
        """Raises `OperatorError` where the file ends before the tensor does."""
        tensor = torch.empty(shape, dtype=place.dtype)
        if tensor.numel():
            # Buffered: that reads on until all is there, where one system call gives 2 GiB at most.
            with self.path.open("rb") as file:
                file.seek(start)
                got = file.readinto(memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy())))
            if got < tensor.nbytes:
                raise OperatorError(
                    f"{self.path}: expected {tensor.nbytes} bytes of a tensor from byte {start} on, got {got}: the "
                    "file was cut short after it was written. Look at that disk and at who else writes to the folder; "
                    "then start the run again under the same name: it resumes."
                )
        return tensor


@lru_cache(maxsize=8)
def _places_in(header: bytes) -> Mapping[str, Place]:
    """What the header of a safetensors file says: eight bytes for its length, then JSON, then the numbers.

    https://huggingface.co/docs/safetensors, section Format.
    """
    told = {name: each for name, each in json.loads(header).items() if name != "__metadata__"}
    first = 8 + len(header)
    return {
        name: Place(DTYPES[each["dtype"]], tuple(each["shape"]), first + each["data_offsets"][0])
        for name, each in told.items()
    }


@dataclass(frozen=True, eq=False)
class PermutedState(Mapping[str, Tensor]):
    """``state`` with its units moved, a tensor at a time, when it is looked at."""

    spec: PermutationSpec
    permutation: Permutation
    state: State

    def __getitem__(self, name: str) -> Tensor:
        return permute_tensor(self.spec, self.permutation, name, self.state[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True)
class Spool:
    """A folder for the replies of one round. Without a folder, replies stay in memory."""

    directory: Path | None = None

    def clear(self) -> None:
        """Forgets the round before."""
        if self.directory is not None:
            rmtree(self.directory, ignore_errors=True)
            # Networks as sites sent them, and sums over their samples: not for all users of the machine.
            self.directory.mkdir(mode=0o700, parents=True)

    def add(self, site: str, state: State) -> State:
        """``state``, now on disk. It is not synced: after a crash the round is played again."""
        if self.directory is None:
            return state
        # A site's name may be anything; a file's may not.
        path = self.directory / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.safetensors"
        with room_for(path, path):
            save_file(dict(_apart(state)), path)
        return SpooledState(path, tuple(state))


def in_memory(state: State) -> State:
    """``state``, read once if it lies on a disk: there every look at a tensor opens the file."""
    return dict(state) if isinstance(state, SpooledState) else state


def _apart(state: State) -> Iterator[tuple[str, Tensor]]:
    """The tensors, no two of which share memory: Flower sends equal bytes once, and safetensors wants each its own."""
    seen: set[int] = set()
    for name, tensor in state.items():
        whole = tensor.contiguous()
        place = whole.untyped_storage().data_ptr()
        yield name, whole.clone() if place in seen else whole
        seen.add(place)
