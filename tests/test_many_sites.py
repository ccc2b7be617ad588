"""A thousand sites, of which some crash, lie or are late in every round: the right model, and no lost count."""

from collections import Counter
from pathlib import Path

import torch

from models import Architecture, build
from server.app import play
from server.resume import Beginning
from server.store import RunStore
from server.summary import read_rounds
from tests.inprocess import quick_settings
from tests.many import Crowd

N_SITES, N_ROUNDS = 1000, 20


def test_a_thousand_sites_and_twenty_rounds(tmp_path: Path) -> None:
    settings = quick_settings(
        tmp_path, start="shared", width=16, depth=1, rounds=N_ROUNDS, probe_points=0, align_at="server"
    )
    target = build(Architecture(*settings.network), 7).state_dict()
    crowd = Crowd(N_SITES, {name: tensor.clone() for name, tensor in target.items()})
    store = RunStore(tmp_path / "test")
    store.make()
    play(crowd, settings, store, Beginning())
    rounds = read_rounds(store)
    assert [record.outcome for record in rounds] == ["merged"] * N_ROUNDS
    # Half of the way in each round, but for noise of 1e-3 over √900 sites.
    found = store.network(N_ROUNDS)
    assert max(float((found[name] - target[name]).abs().max()) for name in target) < 5e-4
    refusals = Counter(verdict.reason for record in rounds for verdict in record.refused)
    assert refusals == crowd.expected
    assert all(len(record.weights) + len(record.refused) == N_SITES for record in rounds)
    assert torch.isfinite(torch.cat([tensor.flatten() for tensor in found.values()])).all()
