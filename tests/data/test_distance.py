"""Edit distances against a plain reference, and the published one against golden values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data import distance
from lightsleeper.data.distance import distances, edit_distance, libriphrase_distance, nearest


def reference(a: str, b: str, published: bool) -> int:
    previous = list(range(len(b) + 1))
    for i, left in enumerate(a):
        current = [i + 1]
        for j, right in enumerate(b):
            moves = [m for m in (previous[j + 1] + 1, current[j] + 1) if not (published and m <= 1)]
            current.append(min([previous[j] + (left != right), *moves]))
        previous = current
    return previous[-1]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("STAAP", "STEHP", 2),
        ("T", "CH", 2),
        ("FREHND", "TREHND", 1),
        ("BIHT", "BIYT", 1),
        ("FREHND", "REHND", 1),  # an insertion of cost 1 at the table's border is exempt
        ("KAET", "KAETS", 5),  # the plain distance is 1: plurals are never hard negatives
        ("", "KAE", 3),
        ("KAET", "KAET", 0),
    ],
)
def test_published_distance_has_the_golden_values_in_both_directions(a: str, b: str, expected: int) -> None:
    assert libriphrase_distance(a, b) == expected
    assert libriphrase_distance(b, a) == expected


def test_textbook_distance_counts_one_insertion_as_one() -> None:
    assert edit_distance([20, 2, 31], [20, 2, 31, 29]) == 1
    assert edit_distance([20, 2, 31], [20, 5, 31]) == 1
    assert edit_distance([], [1, 2]) == 2
    assert edit_distance([1, 2], []) == 2


words = st.lists(st.text("ABC ", max_size=9), min_size=1, max_size=12)


@settings(deadline=None, max_examples=80)
@given(a=words, b=words, published=st.booleans())
def test_all_distances_equal_the_plain_reference(a: list[str], b: list[str], published: bool) -> None:
    expected = [[reference(x, y, published) for y in b] for x in a]
    assert distances(a, b, published).tolist() == expected


@settings(deadline=None, max_examples=80)
@given(a=words, b=words, k=st.integers(1, 5), limit=st.none() | st.integers(1, 4), published=st.booleans())
def test_nearest_equals_a_full_sort_with_ties_in_first_seen_order(
    a: list[str], b: list[str], k: int, limit: int | None, published: bool
) -> None:
    indices, found = nearest(a, b, k, published, limit)
    for row, query in enumerate(a):
        scored = [(reference(query, other, published), position) for position, other in enumerate(b)]
        best = sorted(s for s in scored if s[0] > 0 and (limit is None or s[0] <= limit))[:k]
        assert [i for i in indices[row] if i >= 0] == [position for _, position in best]
        assert [d for d in found[row] if d >= 0] == [d for d, _ in best]


def test_blocks_and_query_groups_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words = [rng.integers(1, 40, rng.integers(1, 12)).tolist() for _ in range(150)]
    whole = nearest(words, words, 4)
    monkeypatch.setattr(distance, "BLOCK_PAIRS", 7)
    monkeypatch.setattr(distance, "SEARCH_PAIRS", 300)
    for part, expected in zip(nearest(words, words, 4), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_long_sequences_do_not_overflow() -> None:
    assert edit_distance([1] * 300, [2] * 280) == 300
    assert edit_distance([1] * 126, [2] * 126) == 126
    assert libriphrase_distance("A" * 200, "B" * 150) == 200
