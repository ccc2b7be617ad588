"""Axes as unknowns: unification keeps sizes, makes both sides equal, and forgets nothing."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from alignment.tracing.dims import Expr, cut, fix, fresh, is_fixed, merge, resolve, size_of, split, unify

WHY = "the test"


def _text(expr: Expr) -> list[list[int]]:
    return [[dim.size for dim in product] for product in resolve(expr)]


def _concatenation(sizes: list[int]) -> Expr:
    return tuple(product for size in sizes for product in fresh(size))


def _divided(total: int, cuts: list[int]) -> list[int]:
    stops = sorted({0, total, *(position % total for position in cuts)})
    return [stop - start for start, stop in pairwise(stops)]


@given(total=st.integers(2, 40), cuts=st.lists(st.lists(st.integers(0, 100), max_size=4), min_size=2, max_size=5))
def test_unified_concatenations_are_one_row_of_all_their_cuts(total: int, cuts: list[list[int]]) -> None:
    rows = [_concatenation(_divided(total, positions)) for positions in cuts]
    for row in rows[1:]:
        unify(rows[0], row, WHY)
    stops = {stop for positions in cuts for stop in accumulate(_divided(total, positions))}
    sizes = [size_of((segment,)) for segment in resolve(rows[0])]
    # Segments of one unit cannot move; neighbours of that kind are one fixed stretch.
    assert set(accumulate(sizes)) <= stops
    assert all(resolve(row) == resolve(rows[0]) or size_of(row) == total for row in rows)
    assert {size_of(row) for row in rows} == {total}


@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.data())
def test_unified_products_keep_their_size_and_agree(sizes: list[int], data: st.DataObject) -> None:
    one = merge([fresh(size) for size in sizes])
    shuffled = data.draw(st.permutations(sizes))
    other = merge([fresh(size) for size in shuffled])
    unify(one, other, WHY)
    assert size_of(resolve(one)) == size_of(resolve(other))
    assert resolve(one) == resolve(other) or (is_fixed(one) and is_fixed(other))
    if shuffled == sizes:
        assert resolve(one) == resolve(other)
        assert not is_fixed(one)


def test_a_whole_becomes_what_it_is_unified_with() -> None:
    whole, parts = fresh(12), merge([fresh(3), fresh(4)])
    unify(whole, parts, WHY)
    assert resolve(whole) == resolve(parts)
    assert _text(whole) == [[3, 4]]


def test_products_are_refined_to_common_strides() -> None:
    one, other = merge([fresh(4), fresh(3)]), merge([fresh(2), fresh(6)])
    unify(one, other, WHY)
    assert _text(one) == _text(other) == [[2, 2, 3]]


def test_strides_that_do_not_divide_fix_both() -> None:
    one, other = merge([fresh(4), fresh(3)]), merge([fresh(3), fresh(4)])
    unify(one, other, WHY)
    assert is_fixed(one)
    assert is_fixed(other)


def test_a_cut_between_blocks_cuts_the_outer_units() -> None:
    blocks = merge([fresh(5), fresh(4)])
    head, tail = cut(blocks, 8, WHY)
    assert (_text(head), _text(tail)) == ([[2, 4]], [[3, 4]])
    assert _text(blocks) == [[2, 4], [3, 4]]


def test_a_cut_through_a_block_fixes_it() -> None:
    blocks = merge([fresh(5), fresh(4)])
    cut(blocks, 7, WHY)
    assert is_fixed(blocks)


def test_what_is_fixed_fixes_what_it_is_unified_with_in_part() -> None:
    free, mixed = fresh(7), (*fresh(3, "here"), *fresh(4))
    unify(free, mixed, WHY)
    assert [dim.reason for product in resolve(free) for dim in product] == ["here", None]


def test_the_first_reason_stays() -> None:
    axis = fresh(3)
    fix(axis, "first")
    fix(axis, "second")
    assert resolve(axis)[0][0].reason == "first"


def test_a_concatenation_below_other_units_waits_until_it_is_needed() -> None:
    outer, inner = fresh(2), fresh(7)
    whole = merge([outer, inner])
    cut(inner, 3, WHY)
    assert _text(whole) == [[2, 7]]
    assert not is_fixed(whole)


def test_a_split_shares_the_inner_units_of_all_segments() -> None:
    axis = (*merge([fresh(3), fresh(4)]), *merge([fresh(5), fresh(4)]))
    outer, inner = split(axis, [8, 4], WHY)
    assert (_text(outer), _text(inner)) == ([[3], [5]], [[4]])
    assert resolve(axis)[0][1] is resolve(axis)[1][1] is resolve(inner)[0][0]


def test_a_split_across_segments_moves_every_slice_alike() -> None:
    axis = (*fresh(4), *fresh(2))
    outer, inner = split(axis, [2, 3], WHY)
    assert is_fixed(outer)
    assert size_of(inner) == 3
