"""LSTM and GRU: gates are runs of one group, and the hidden state sits on both axes of its own matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.derived import derived, freedom, layout

SERIES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


class _Last(nn.Module):
    """A recurrent network and a linear layer on its last output, or on its last hidden state."""

    def __init__(self, rnn: nn.RNNBase, by_state: bool = False) -> None:
        super().__init__()
        self.rnn, self.by_state = rnn, by_state
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.rnn(x)
        hidden: Tensor = state[0] if isinstance(self.rnn, nn.LSTM) else state
        return self.head(hidden[-1] if self.by_state else outputs[:, -1])


@pytest.mark.parametrize(("kind", "n_gates"), [(nn.LSTM, "4·"), (nn.GRU, "3·"), (nn.RNN, "")])
def test_gates_and_hidden_state_are_one_group(kind: type[nn.LSTM | nn.GRU | nn.RNN], n_gates: str) -> None:
    spec = derived(_Last(kind(4, 5, batch_first=True)), SERIES)
    assert freedom(spec) == {"rnn.l0": 5}
    assert layout(spec, "rnn.weight_ih_l0") == [f"{n_gates}rnn.l0", "4"]
    assert layout(spec, "rnn.weight_hh_l0") == [f"{n_gates}rnn.l0", "rnn.l0"]
    assert layout(spec, "rnn.bias_hh_l0") == [f"{n_gates}rnn.l0"]
    assert layout(spec, "head.weight") == ["2", "rnn.l0"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_and_directions_move_apart(kind: type[nn.LSTM | nn.GRU]) -> None:
    spec = derived(_Last(kind(4, 5, num_layers=2, batch_first=True, bidirectional=True, bias=False)), SERIES)
    assert freedom(spec) == {"rnn.l0": 5, "rnn.l0_reverse": 5, "rnn.l1": 5, "rnn.l1_reverse": 5}
    assert layout(spec, "rnn.weight_ih_l1")[1] == "rnn.l0 + rnn.l0_reverse"
    assert layout(spec, "head.weight")[1] == "rnn.l1 + rnn.l1_reverse"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_reading_the_last_layers_state_ties_no_layers(kind: type[nn.LSTM | nn.GRU]) -> None:
    spec = derived(_Last(kind(4, 5, num_layers=2, batch_first=True), by_state=True), SERIES)
    assert freedom(spec) == {"rnn.l0": 5, "rnn.l1": 5}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_directions_whose_states_are_flattened_move_apart(kind: type[nn.LSTM | nn.GRU]) -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(4, 5, num_layers=2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            _, state = self.rnn(x)
            hidden: Tensor = state[0] if isinstance(self.rnn, nn.LSTM) else state
            return self.head(hidden.transpose(0, 1).flatten(1))

    spec = derived(Flattened(), SERIES)
    assert freedom(spec) == {"rnn.l0": 5, "rnn.l0_reverse": 5, "rnn.l1": 5, "rnn.l1_reverse": 5}
    assert layout(spec, "head.weight")[1] == "rnn.l0 + rnn.l0_reverse + rnn.l1 + rnn.l1_reverse"


def test_a_projected_lstm_moves_cells_and_projection_apart() -> None:
    rnn = nn.LSTM(4, 5, proj_size=3, batch_first=True)
    net = nn.Sequential(rnn, _First(), nn.Linear(3, 2))
    spec = derived(net, SERIES)
    assert layout(spec, "0.weight_hh_l0") == ["4·0.l0", "0.l0.2"]
    assert layout(spec, "0.weight_hr_l0") == ["0.l0.2", "0.l0"]


class _First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


class _Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(4, 5), nn.GRUCell(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        cell = h = torch.zeros(len(x), 5)
        other = torch.zeros(len(x), 6)
        for step in x.unbind(1):
            h, cell = self.lstm(step, (h, cell))
            other = self.gru(h, other)
        return self.head(other)


def test_cells_stepped_by_hand_are_like_layers() -> None:
    spec = derived(_Cells(), SERIES)
    assert freedom(spec) == {"lstm": 5, "gru": 6}
    assert layout(spec, "gru.weight_ih") == ["3·gru", "lstm"]


def test_a_state_that_is_returned_stays() -> None:
    spec = derived(nn.GRU(4, 5, batch_first=True), SERIES)
    assert spec.groups == {}
    assert spec.fixed["weight_hh_l0", 1] == "network output"


class _Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), [3, 2], batch_first=True)
        _, (hidden, _) = self.rnn(packed)
        return self.head(hidden[-1])


def test_packed_sequences_move_features_and_states() -> None:
    assert freedom(derived(_Packed(), SERIES)) == {"embed": 6, "rnn.l0": 5}


def test_an_example_of_one_step_proves_nothing_of_the_recurrence() -> None:
    spec = derived(_Last(nn.LSTM(4, 5, batch_first=True)), SERIES[:, :1])
    assert spec.groups == {}
    assert spec.fixed["rnn.weight_hh_l0", 1] == "the outputs do not depend on it"
