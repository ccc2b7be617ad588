"""A thousand sites, of which some crash, lie or are late in every round: the right model, and no lost count."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from server.summary import read_rounds
from tests.many import play_crowd

pytestmark = pytest.mark.long

N_SITES, N_ROUNDS = 1000, 4


def test_a_thousand_sites_and_four_rounds(tmp_path: Path) -> None:
    store, crowd = play_crowd(tmp_path, N_SITES, N_ROUNDS)
    rounds = read_rounds(store)
    assert [record.outcome for record in rounds] == ["merged"] * N_ROUNDS
    # But for noise of 1e-3 over √900 sites.
    found = store.network(N_ROUNDS)
    assert max(float((found[name] - each).abs().max()) for name, each in crowd.after(N_ROUNDS).items()) < 5e-4
    refusals = Counter(verdict.reason for record in rounds for verdict in record.refused)
    assert refusals == crowd.expected
    assert all(len(record.weights) + len(record.refused) == N_SITES for record in rounds)
    assert torch.isfinite(torch.cat([tensor.flatten() for tensor in found.values()])).all()
