"""Replies wait on disk: the merge is the same, in any order of arrival, and memory does not grow with the sites."""

import os
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message

from alignment import permute, random_permutation
from alignment.weight_matching import match_weights
from strategies import FedRebasin
from strategies.decoding import read_state
from strategies.errors import OperatorError
from strategies.spool import PermutedState, Spool, SpooledState
from tests.replies import ready, small_spec, small_state, train_reply


def merge(nodes: tuple[int, ...], spool: Spool | None = None, reference: str = "largest") -> ArrayRecord:
    strategy = ready(FedRebasin(spec=small_spec(), reference=reference, spool=spool, restarts=3), small_state(0))
    arrays, _ = strategy.aggregate_train(1, [train_reply(node, small_state(node), node) for node in nodes])
    assert arrays is not None
    return arrays


def bytes_of(arrays: ArrayRecord) -> bytes:
    return b"".join(array.numpy().tobytes() for array in arrays.values())


def test_a_spooled_merge_has_the_bytes_of_one_in_memory(tmp_path: Path) -> None:
    assert bytes_of(merge((1, 2, 3), Spool(tmp_path / "spool"))) == bytes_of(merge((1, 2, 3)))


def test_all_orders_of_five_replies_give_the_same_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert len({bytes_of(merge(order, spool)) for order in permutations((1, 2, 3, 4, 5))}) == 1


def test_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found: set[bytes] = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(bytes_of(merge((1, 2, 3), Spool(tmp_path / "spool"))))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_matching_does_not_depend_on_who_else_replied() -> None:
    with_many, with_few = (ready(FedRebasin(spec=small_spec(), restarts=3), small_state(0)) for _ in range(2))
    with_many.aggregate_train(1, [train_reply(node, small_state(node)) for node in (1, 2, 3)])
    with_few.aggregate_train(1, [train_reply(2, small_state(2))])
    assert with_many.merged is not None
    assert with_few.merged is not None
    assert with_many.merged.matchings["b"].objective == with_few.merged.matchings["b"].objective


def test_a_spooled_state_reads_what_was_written_in_its_order(tmp_path: Path) -> None:
    state = small_state(4)
    spool = Spool(tmp_path / "spool")
    spool.clear()
    spooled = spool.add("any/name\n../", state)
    assert isinstance(spooled, SpooledState)
    assert list(spooled) == list(state)
    assert "other" not in spooled
    assert all(torch.equal(spooled[name], state[name]) for name in state)
    assert [path.parent for path in tmp_path.rglob("*.safetensors")] == [tmp_path / "spool"]


def test_tensors_of_equal_bytes_which_flower_sends_once_are_kept_apart(tmp_path: Path) -> None:
    once = Array(torch.ones(6, 4).numpy())
    arrays = ArrayRecord({"hidden.weight": once, "more": once})
    state = Spool(tmp_path).add("a", read_state("a", arrays))
    assert torch.equal(state["hidden.weight"], torch.ones(6, 4))
    assert torch.equal(state["more"], torch.ones(6, 4))


def test_a_new_round_forgets_the_old_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    merge((1, 2, 3), spool)
    merge((1, 2), spool)
    assert len(list((tmp_path / "spool").iterdir())) == 2


def test_what_sites_sent_is_not_for_all_users_of_the_machine(tmp_path: Path) -> None:
    spool, before = Spool(tmp_path / "run" / "spool"), os.umask(0)
    try:
        spool.clear()
    finally:
        os.umask(before)
    assert (tmp_path / "run" / "spool").stat().st_mode & 0o077 == 0


def test_a_permuted_state_is_what_permute_gives() -> None:
    permutation = random_permutation(small_spec(), torch.Generator().manual_seed(0))
    lazy, whole = (
        PermutedState(small_spec(), permutation, small_state(1)),
        permute(small_spec(), permutation, small_state(1)),
    )
    assert list(lazy) == list(whole)
    assert all(torch.equal(lazy[name], whole[name]) for name in whole)


def test_a_site_that_answers_twice_is_heard_once() -> None:
    strategy = ready(FedRebasin(spec=small_spec()), small_state(0))
    strategy.aggregate_train(1, [train_reply(1, small_state(1)), train_reply(1, small_state(2))])
    assert strategy.merged is not None
    assert [verdict.reason.name for verdict in strategy.merged.refused] == ["DUPLICATE"]


def test_matching_takes_no_time_from_sites_whose_replies_lie_there_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is matched when all have come, and its file is read once for that."""
    happened: list[str] = []

    def arriving() -> Iterator[tuple[str, Message]]:
        for node, site in enumerate("abc", start=1):
            happened.append(f"came {site}")
            yield site, train_reply(node, small_state(node))

    def matched(*args: Any) -> Any:
        assert isinstance(args[2], dict)
        happened.append("matched")
        return match_weights(*args)

    monkeypatch.setattr("strategies.matching.match_weights", matched)
    strategy = ready(FedRebasin(spec=small_spec(), spool=Spool(tmp_path / "spool")), small_state(0))
    strategy.collect(1, arriving())
    merged = strategy.align_collected()
    assert happened == ["came a", "came b", "came c", "matched", "matched", "matched"]
    assert merged.matchings.keys() == merged.seconds.keys() == {"a", "b", "c"}


def test_a_file_that_was_cut_short_is_told_and_not_read_as_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.clear()
    spooled = spool.add("a", {"w": torch.ones(4, 2)})
    assert isinstance(spooled, SpooledState)
    os.truncate(spooled.path, spooled.path.stat().st_size - 8)
    assert spooled.rows("w", 0, 3).sum() == 6
    for read in (lambda: spooled["w"], lambda: spooled.rows("w", 3, 4)):
        with pytest.raises(OperatorError, match=rf"{spooled.path}: expected \d+ bytes .*, got \d+: .* cut short"):
            read()
