"""The benchmark on tables: what it reads, how it judges, and what it prints."""

from typing import Any, cast

import pytest
import torch
from sklearn import metrics

from benchmarks.tables import TABLES, Found, Seen, Task, balanced_accuracy, table
from cli.pooled import parts_of
from client.scale import size_remark
from client.sources import describe_samples, read_samples


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_standardised_and_fits_its_network(name: str) -> None:
    samples = read_samples(f"benchmarks.table_data:{name}")
    assert describe_samples(samples) == TABLES[name]
    assert torch.allclose(samples.inputs.double().square().mean(0), torch.ones(1, dtype=torch.float64), atol=1e-4)
    assert not size_remark(samples)


def test_the_rarer_class_of_the_harder_table_has_some_15_of_100_rows() -> None:
    assert 0.14 < read_samples("benchmarks.table_data:rare").targets.double().mean() < 0.17


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), 200, replacement=True, generator=generator)
    expected = cast(Any, metrics).balanced_accuracy_score(targets.numpy(), scores.argmax(1).numpy())
    assert balanced_accuracy(scores, targets) == pytest.approx(expected)


def test_networks_are_judged_on_what_all_sites_hold_out() -> None:
    task = Task("wine", "biased", 3, 0)
    seen = Seen.of(task, parts_of(task.settings("recipe"), task.n_sites))
    assert len(seen.held_out) == pytest.approx(0.2 * 178, abs=3)
    state = seen.model.state_dict()
    always_first = {**state, "fc.weight": torch.zeros_like(state["fc.weight"]), "fc.bias": torch.tensor([50.0, 0, 0])}
    found = seen.found(always_first)
    assert found.accuracy == pytest.approx(float((seen.held_out.targets == 0).double().mean()))
    assert found.balanced == pytest.approx(1 / 3)


def test_a_cell_is_the_mean_of_the_seeds_that_have_it_and_says_where_these_are_fewer() -> None:
    seeds = [{"naive": Found(0.5, 1.0), "pooled": Found(0.9, 0.1, 0.8)}, {"naive": Found(0.7, 2.0)}]
    assert table({"wine, iid": seeds}).splitlines()[2:] == [
        "| wine, iid | accuracy | 0.600 | 0.900 (1) |",
        "| wine, iid | balanced accuracy |  | 0.800 (1) |",
        "| wine, iid | loss | 1.500 | 0.100 (1) |",
    ]
