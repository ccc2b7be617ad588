"""Random programs: the rules alone, without the proof, give no wrong group; and specs outlive the example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment.check import check_spec
from alignment.spec import PermutationSpec
from alignment.tracing import derive_spec
from alignment.tracing.bench import Bench


def _divisor(n: int, random: Random) -> int:
    return random.choice([d for d in range(1, n + 1) if n % d == 0])


def _unbind_slots(packed: Tensor, n_heads: int) -> Sequence[Tensor]:
    return torch.unbind(torch.unflatten(packed, -1, (3, n_heads, -1)).permute(2, 0, 3, 1, 4))


def _unbind_slots_in_heads(packed: Tensor, n_heads: int) -> Sequence[Tensor]:
    return torch.unbind(torch.unflatten(packed, -1, (n_heads, 3, -1)).permute(3, 0, 2, 1, 4))


def _chunk_in_heads(packed: Tensor, n_heads: int) -> Sequence[Tensor]:
    return torch.chunk(torch.unflatten(packed, -1, (n_heads, -1)).transpose(1, 2), 3, -1)


def _chunk_first(packed: Tensor, n_heads: int) -> Sequence[Tensor]:
    return [torch.unflatten(part, -1, (n_heads, -1)).transpose(1, 2) for part in torch.chunk(packed, 3, -1)]


_UNPACKINGS = (_unbind_slots, _unbind_slots_in_heads, _chunk_in_heads, _chunk_first)


class _Program(nn.Module):
    """Steps drawn from a seed, each on one of the last tensors of shape (batch, 3, width)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.parts = seed, nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        random = Random(self.seed)
        steps = (self._linear, self._norm, self._convolution, self._heads, self._attention, self._wiring, self._cut)
        pool = [x]
        for place in range(random.randint(4, 12)):
            step: Callable[..., Tensor] = random.choice(steps)
            pool.append(step(str(place), random.choice(pool[-3:]), pool, random)[..., :24])
        last = torch.cat(pool[-3:], -1)
        return torch.tanh(self._part("head", nn.Linear(last.shape[-1], 2), last))

    def _part(self, key: str, made: nn.Module, x: Tensor) -> Tensor:
        if key not in self.parts:
            self.parts[key] = made
        return self.parts[key](x)

    def _linear(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        return torch.tanh(self._part(key, nn.Linear(x.shape[-1], random.choice((4, 6, 8, 12))), x))

    def _norm(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        n = x.shape[-1]
        if random.random() < 0.3:
            return self._part(key, nn.LayerNorm(n), x)
        norm = nn.GroupNorm(_divisor(n, random), n) if random.random() < 0.7 else nn.BatchNorm1d(n)
        return self._part(key, norm, x.transpose(1, 2)).transpose(1, 2)

    def _convolution(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        n, groups = x.shape[-1], _divisor(x.shape[-1], random)
        made = nn.Conv1d(n, groups * random.randint(1, 3), 3, padding=1, groups=groups)
        return self._part(key, made, x.transpose(1, 2)).transpose(1, 2)

    def _heads(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        heads = torch.unflatten(x, -1, (_divisor(x.shape[-1], random), -1))
        axis = random.choice((2, 3))
        mixed = (heads.softmax(axis), heads - heads.mean(axis, keepdim=True), heads.transpose(2, 3))
        return random.choice(mixed).flatten(2)

    def _attention(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        n, n_heads = x.shape[-1], _divisor(x.shape[-1], random)
        packed = self._part(key, nn.Linear(n, 3 * n), x)
        q, k, v = random.choice(_UNPACKINGS)(packed, n_heads)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _wiring(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        like = random.choice([other for other in pool if other.shape == x.shape])
        wide, stacked = torch.cat([x, random.choice(pool)], -1), torch.stack([x, like, x])
        beside = torch.stack([x, like], 2)
        rows = [beside.flatten(2), beside.transpose(2, 3).flatten(2)]
        rows.append(torch.cat([rows[0], beside.mean(2)], -1))
        return random.choice([x + like, x * like, wide, stacked.sum(0), stacked[1], F.pad(x, (1, 2)), *rows])

    def _cut(self, key: str, x: Tensor, pool: list[Tensor], random: Random) -> Tensor:
        start = random.randrange(x.shape[-1])
        ways = [x[..., start:], x[..., : start + 1], x[..., start:].sigmoid() + x[..., start : start + 1]]
        return random.choice(ways + ([F.glu(x)] if x.shape[-1] % 2 == 0 else []))


def _unproved(bench: Bench, spec: PermutationSpec) -> PermutationSpec:
    return spec


@pytest.mark.parametrize("seed", range(20))
def test_groups_of_random_programs_hold_unproved_for_other_inputs_and_weights(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.tracing.derive.prove", _unproved)
    torch.manual_seed(seed)
    net, example = _Program(seed), torch.randn(2, 3, 5, dtype=torch.float64)
    net(example.float())
    net.double().eval()
    spec = derive_spec(net, (example,))
    assert not [reason for reason in spec.fixed.values() if "not derived" in reason or "without a rule" in reason]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    check_spec(net, spec, (torch.randn(4, 3, 5, dtype=torch.float64),), tolerance=1e-7)
