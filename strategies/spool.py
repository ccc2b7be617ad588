"""Replies wait on disk, not in memory: one safetensors file each, read tensor by tensor when the merge comes to it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

from safetensors import safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from alignment.permutation import Permutation, permute_tensor
from alignment.spec import PermutationSpec, State
from strategies.files import room_for


@dataclass(frozen=True)
class SpooledState(Mapping[str, Tensor]):
    """A state dict on disk. Each look reads one tensor from the mapped file and keeps nothing."""

    path: Path
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        # Opened anew each time: a thousand sites would be a thousand open files.
        with cast(Any, safe_open)(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """A part of one tensor along its first axis; only that much is read."""
        with cast(Any, safe_open)(self.path, framework="pt") as file:
            return file.get_slice(name)[first:last]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


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
            self.directory.mkdir(parents=True)

    def add(self, site: str, state: State) -> State:
        """``state``, now on disk. It is not synced: after a crash the round is played again."""
        if self.directory is None:
            return state
        # A site's name may be anything; a file's may not.
        path = self.directory / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.safetensors"
        with room_for(path, path):
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return SpooledState(path, tuple(state))
