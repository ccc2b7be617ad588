"""Attention: heads move as blocks; units within a head, of queries with keys and of values with outputs, per head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.derived import derived, freedom, layout

TOKENS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
WIDTH, HEADS = 12, 3

Split = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class _Net(nn.Module):
    """Attention between two linear layers, so that its own input and output are free."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attn, self.head = nn.Linear(4, WIDTH), attention, nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attn(self.stem(x)))


class _Packed(nn.Module):
    """One projection for queries, keys and values, taken apart by ``split`` into (batch, head, token, unit)."""

    def __init__(self, split: Split, fused: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.split, self.fused = split, fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.qkv(x))
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2))


def _heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)


def _chunked(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.chunk(3, -1)
    return _heads(q), _heads(k), _heads(v)


def _split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.split(x, WIDTH, -1)
    return _heads(q), _heads(k), _heads(v)


def _sliced(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _heads(x[..., :WIDTH]), _heads(x[..., WIDTH : 2 * WIDTH]), _heads(x[..., 2 * WIDTH :])


def _unbound(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _indexed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = x.view(*x.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).contiguous()
    return parts[0], parts[1], parts[2]


def _chunked_after(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.view(*x.shape[:2], 3, HEADS, WIDTH // HEADS).chunk(3, 2)
    return q.squeeze(2).transpose(1, 2), k.squeeze(2).transpose(1, 2), v.squeeze(2).transpose(1, 2)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("split", [_chunked, _split, _sliced, _unbound, _indexed, _chunked_after])
def test_packed_projections_move_heads_and_the_units_within(split: Split, fused: bool) -> None:
    spec = derived(_Net(_Packed(split, fused)), TOKENS)
    assert freedom(spec) == {
        "stem": 12,
        "attn.qkv.heads": 3,
        "attn.qkv.units": ("attn.qkv.heads", 4),
        "attn.qkv.units.2": ("attn.qkv.heads", 4),
        "attn.proj": 12,
    }
    rows = "2·attn.qkv.heads·attn.qkv.units + attn.qkv.heads·attn.qkv.units.2"
    assert layout(spec, "attn.qkv.weight") == [rows, "stem"]
    assert layout(spec, "attn.qkv.bias") == [rows]
    assert layout(spec, "attn.proj.weight") == ["attn.proj", "attn.qkv.heads·attn.qkv.units.2"]


def _interleaved(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.view(*x.shape[:2], HEADS, 3, WIDTH // HEADS).permute(3, 0, 2, 1, 4).unbind(0)
    return q, k, v


def test_slots_inside_heads_move_alike() -> None:
    spec = derived(_Net(_Packed(_interleaved)), TOKENS)
    assert layout(spec, "attn.qkv.weight")[0] == "attn.qkv.heads·3·attn.qkv.units"
    assert spec.parents == {"attn.qkv.units": "attn.qkv.heads"}


def _cut_within_heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.view(*x.shape[:2], HEADS, 3 * WIDTH // HEADS).transpose(1, 2).chunk(3, -1)
    return q, k, v


def _legacy(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of guided-diffusion's QKVAttentionLegacy: heads beside the batch, channels before positions."""
    b, t, c = x.shape
    q, k, v = x.transpose(1, 2).reshape(b * HEADS, c // HEADS, t).chunk(3, 1)
    shape = (b, HEADS, WIDTH // HEADS, t)
    return q.reshape(shape).transpose(2, 3), k.reshape(shape).transpose(2, 3), v.reshape(shape).transpose(2, 3)


@pytest.mark.parametrize("cut", [_cut_within_heads, _legacy])
def test_heads_that_stay_above_a_concatenation_are_reported(cut: Split) -> None:
    spec = derived(_Net(_Packed(cut)), TOKENS)
    reason = "its units interleave with those of a concatenation"
    assert freedom(spec) == {"stem": 12, "attn.qkv": 4, "attn.qkv.2": 4, "attn.proj": 12}
    assert {place for place, why in spec.fixed.items() if why == reason} == {
        *(("attn.qkv.weight", 0), ("attn.qkv.bias", 0), ("attn.proj.weight", 1)),
    }


def test_projections_cut_within_heads_keep_the_heads_in_place() -> None:
    spec = derived(_Net(_Packed(_cut_within_heads)), TOKENS)
    assert freedom(spec) == {"stem": 12, "attn.qkv": 4, "attn.qkv.2": 4, "attn.proj": 12}
    assert layout(spec, "attn.proj.weight")[1] == "3·attn.qkv.2"


class _Multihead(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=self.training)[0]


@pytest.mark.parametrize("options", [{"batch_first": True}, {}, {"bias": False}, {"add_bias_kv": True}])
def test_the_packed_projection_of_torch_moves_heads_and_units(options: dict[str, bool]) -> None:
    spec = derived(_Net(_Multihead(**options)), TOKENS)
    heads, query, value = "attn.mha.in_proj.heads", "attn.mha.in_proj.units", "attn.mha.in_proj.units.2"
    assert layout(spec, "attn.mha.in_proj_weight") == [f"2·{heads}·{query} + {heads}·{value}", "stem"]
    assert layout(spec, "attn.mha.out_proj.weight") == ["attn.mha.out_proj", f"{heads}·{value}"]
    assert spec.parents == {query: heads, value: heads}


class _Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other, self.head = nn.Linear(4, 12), nn.Linear(4, 7), nn.Linear(12, 2)
        self.mha = nn.MultiheadAttention(12, 3, kdim=7, vdim=7, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.other(x)
        out, weights = self.mha(self.stem(x), memory, memory)
        return self.head(out), weights


def test_cross_attention_reads_another_stream() -> None:
    spec = derived(_Cross(), TOKENS)
    assert layout(spec, "mha.q_proj_weight") == ["mha.q_proj.heads·mha.q_proj.units", "stem"]
    assert layout(spec, "mha.k_proj_weight") == ["mha.q_proj.heads·mha.q_proj.units", "other"]
    assert layout(spec, "mha.v_proj_weight") == ["mha.q_proj.heads·mha.v_proj.units", "other"]


class _GroupedQueries(nn.Module):
    """Ainslie et al. 2023: several query heads share one head of keys and values."""

    def __init__(self, explicit: bool) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 16), nn.Linear(24, WIDTH)
        self.explicit = explicit

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 6, 4).transpose(1, 2)
        k, v = (y.view(b, t, 2, 4).transpose(1, 2) for y in self.kv(x).chunk(2, -1))
        if self.explicit:
            out = F.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
        else:
            out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.proj(out.transpose(1, 2).reshape(b, t, 24))


@pytest.mark.parametrize("explicit", [True, False])
def test_grouped_queries_move_key_heads_and_the_query_heads_below(explicit: bool) -> None:
    spec = derived(_Net(_GroupedQueries(explicit)), TOKENS)
    assert freedom(spec) == {
        "stem": 12,
        "attn.q.heads": 2,
        "attn.q.units": ("attn.q.heads", 3),
        "attn.q.units.2": ("attn.q.heads", 4),
        "attn.kv.units": ("attn.q.heads", 4),
        "attn.proj": 12,
    }
    assert layout(spec, "attn.q.weight")[0] == "attn.q.heads·attn.q.units·attn.q.units.2"
    assert layout(spec, "attn.proj.weight")[1] == "attn.q.heads·attn.q.units·attn.kv.units"


class _AllPairs(nn.Module):
    """Scores between every two heads: units within a head can only move alike in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(9, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.a(x).unflatten(-1, (HEADS, 4))
        return self.b((heads @ heads.transpose(-2, -1)).flatten(-2))


def test_units_compared_across_heads_move_alike() -> None:
    spec = derived(_Net(_AllPairs()), TOKENS)
    assert spec.parents == {}
    assert layout(spec, "attn.a.weight")[0] == "attn.a.heads·attn.a.units"
    assert layout(spec, "attn.b.weight")[1] == "attn.a.heads·attn.a.heads"


class _Rotary(nn.Module):
    """Su et al. 2021: queries and keys are turned by position, pair by pair; values are free."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _split(self.qkv(x))
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = angles.cos(), angles.sin()
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def test_rotary_positions_fix_units_of_queries_and_keys_but_not_heads() -> None:
    spec = derived(_Net(_Rotary()), TOKENS)
    assert layout(spec, "attn.qkv.weight")[0] == "2·attn.qkv.heads·4 + attn.qkv.heads·attn.qkv.units"
    assert spec.parents == {"attn.qkv.units": "attn.qkv.heads"}


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_of_torch_moves_stream_heads_and_hidden_units(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 14, batch_first=True, norm_first=norm_first)
    net = _Net(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    spec = derived(net, TOKENS)
    assert sorted(spec.groups.values()) == [3, 3, 4, 4, 4, 4, 12, 14, 14]
    assert layout(spec, "attn.layers.1.linear2.weight") == ["stem", "attn.layers.1.linear1"]


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 14, batch_first=True)
        self.stem, self.other, self.head = nn.Linear(4, WIDTH), nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)
        self.decoder = nn.TransformerDecoder(layer, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.decoder(self.stem(x), self.other(x), tgt_mask=mask))


def test_a_decoder_of_torch_ties_both_streams_by_its_packed_projection() -> None:
    spec = derived(_Decoder(), TOKENS)
    assert sorted(spec.groups.values()) == [3, 3, 4, 4, 4, 4, 12, 14]
    assert layout(spec, "other.weight") == ["stem", "4"]
    cross = "decoder.layers.0.multihead_attn"
    heads, query, value = f"{cross}.in_proj.heads", f"{cross}.in_proj.units", f"{cross}.in_proj.units.2"
    assert layout(spec, f"{cross}.out_proj.weight") == ["stem", f"{heads}·{value}"]
    assert spec.parents[query] == spec.parents[value] == heads


def test_a_mask_given_as_an_input_frees_the_same_groups() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 14, batch_first=True)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.head(self.encoder(self.stem(x), mask=mask))

    spec = derived(Masked(), TOKENS, torch.triu(torch.full((5, 5), -1e9), 1))
    assert sorted(spec.groups.values()) == [3, 4, 4, 12, 14]
