"""Confusable keywords: the published rules, the plain reference, what is never drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.bench.confusables_plain import draw as plain_draw
from lightsleeper.data.articulation import distances
from lightsleeper.data.confusables import Confuser
from lightsleeper.data.distance import edit_distance
from lightsleeper.errors import UserError
from lightsleeper.phones import CLASSES, PHONE_IDS, PHONES

Sound = list[int]


def padded(sounds: list[Sound], words: list[list[int]] | None = None) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, sounds))
    words = words or [[0] * len(sound) for sound in sounds]
    phones = np.array([sound + [0] * (width - len(sound)) for sound in sounds])
    return phones, np.array([numbers + [-1] * (width - len(numbers)) for numbers in words])


def listed(phones: np.ndarray) -> list[Sound]:
    return [[int(phone) for phone in row if phone] for row in phones]


def spelled(text: str) -> Sound:
    return [PHONE_IDS[phone] for phone in text.split()]


def keywords(count: int, seed: int = 0, longest: int = 12) -> list[Sound]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, CLASSES, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize("weighting", ["uniform", "articulatory"])
def test_ten_thousand_draws_are_near_unequal_and_hold_real_phones_only(weighting: str) -> None:
    if weighting == "articulatory":
        pytest.importorskip("panphon")
    own = keywords(10_000)
    found, words = Confuser((1, 3), weighting).draw(*padded(own), np.random.default_rng(1))  # type: ignore[arg-type]
    drawn = listed(found)
    assert found.min() == 0
    assert found.max() < CLASSES
    assert ((words >= 0) == (found > 0)).all()
    lengths = np.array([len(sound) for sound in drawn]) - [len(sound) for sound in own]
    assert lengths.min() == 0
    assert lengths.max() == 3
    assert all((row[len(sound) :] == 0).all() for row, sound in zip(found, drawn, strict=True))
    apart = [edit_distance(a, b) for a, b in zip(own[:2000], drawn[:2000], strict=True)]
    assert set(apart) == {1, 2, 3}


def test_length_grows_by_the_number_of_phones_that_were_added() -> None:
    own = keywords(500, seed=2)
    rng = np.random.default_rng(3)
    found, _ = Confuser().draw(*padded(own), rng)
    again = np.random.default_rng(3)
    edits = np.minimum(again.integers(1, 4, 500), [len(sound) for sound in own])
    again.random((500, 12))
    adds = again.random((500, 3)) < 0.5
    added = [int(adds[row, : edits[row]].sum()) for row in range(500)]
    assert [len(b) - len(a) for a, b in zip(own, listed(found), strict=True)] == added


@pytest.mark.parametrize("edits", [(1, 1), (2, 2)])
def test_a_new_phone_is_unlike_those_before_at_and_after_its_place(edits: tuple[int, int]) -> None:
    own = keywords(3000, seed=4)
    found, _ = Confuser(edits).draw(*padded(own), np.random.default_rng(5))
    for before, after in zip(own, listed(found), strict=True):
        if edits == (1, 1):
            if len(after) == len(before):
                (at,) = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
                assert after[at] not in before[max(at - 1, 0) : at + 2]
            else:
                at = next(i for i in range(len(after)) if after[:i] + after[i + 1 :] == before)
                assert after[at] not in after[max(at - 1, 0) : at] + after[at + 1 : at + 2]
        for first, second in zip(after, after[1:], strict=False):
            if first == second:  # only where the keyword itself has the two in a row
                assert any(a == b == first for a, b in zip(before, before[1:], strict=False))


@settings(max_examples=60, deadline=None)
@given(
    sounds=st.lists(st.lists(st.integers(1, CLASSES - 1), min_size=1, max_size=9), min_size=1, max_size=8),
    edits=st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda t: (t[0], t[0] + t[1])),
    seed=st.integers(0, 2**32),
    weighted=st.booleans(),
)
def test_the_batch_equals_the_plain_reference(
    sounds: list[Sound], edits: tuple[int, int], seed: int, weighted: bool
) -> None:
    words = [[2 * i // len(sound) for i in range(len(sound))] for sound in sounds]
    confuser = Confuser(edits)
    if weighted:
        confuser.weights[1:, 1:] *= np.random.default_rng(seed).random((39, 39))
    found = confuser.draw(*padded(sounds, words), np.random.default_rng(seed))
    plain = plain_draw(list(zip(sounds, words, strict=True)), np.random.default_rng(seed), edits, confuser.weights)
    assert listed(found[0]) == [phones for phones, _ in plain]
    assert [[int(w) for w in row if w >= 0] for row in found[1]] == [numbers for _, numbers in plain]


def test_stamp_comes_of_stop() -> None:
    phones, words = padded([spelled("S T AA P")] * 100_000)
    found, _ = Confuser((2, 2)).draw(phones, words, np.random.default_rng(0))
    assert spelled("S T AE M P") in listed(found)


def test_the_seed_decides() -> None:
    own = padded(keywords(50))
    first, again, other = (Confuser().draw(*own, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_is_kept_apart_is_never_drawn() -> None:
    """Keywords of one phone have 38 draws of one edit by replacing, and as many by adding; most are forbidden."""
    phones, words = padded([spelled("AA")] * 400)
    rng = np.random.default_rng(0)
    free = {tuple(sound) for sound in listed(Confuser((1, 1)).draw(phones, words, rng)[0])}
    kept = sorted(free)[:20]
    found = listed(Confuser((1, 1), never=kept).draw(phones, words, rng)[0])
    assert not {tuple(sound) for sound in found} & set(kept)
    assert len(kept) == 20
    assert len(free) > 60


def test_a_word_that_is_kept_apart_is_never_part_of_a_draw() -> None:
    phones, words = padded([spelled("AA T")] * 400, [[0, 1]] * 400)
    never = [[phone] for phone in range(1, 30) if phone not in spelled("AA T")]
    found, owners = Confuser((1, 1), never_words=never).draw(phones, words, np.random.default_rng(0))
    for row, numbers in zip(found, owners, strict=True):
        for word in (0, 1):
            assert [int(p) for p in row[numbers == word]] not in never


def test_where_nothing_is_left_to_draw_it_says_so() -> None:
    phones, words = padded([spelled("AA")])
    everything = [[a] for a in range(1, CLASSES)] + [[a, b] for a in range(1, CLASSES) for b in range(1, CLASSES)]
    with pytest.raises(RuntimeError, match="no confusable keyword was found for AA"):
        Confuser((1, 1), never=everything).draw(phones, words, np.random.default_rng(0))


def test_articulatory_weights_prefer_near_phones() -> None:
    pytest.importorskip("panphon")
    apart = distances()
    assert np.array_equal(apart, apart.T)
    assert (np.diag(apart) == 0).all()
    assert (apart[~np.eye(39, dtype=bool)] > 0).all()
    near = [PHONES[i] for i in np.argsort(apart[PHONES.index("P")], kind="stable")[1:3]]
    assert near == ["B", "T"]
    phones, words = padded([spelled("P AA P")] * 4000)

    def mean(weighting: str) -> float:
        found, _ = Confuser((1, 1), weighting).draw(phones, words, np.random.default_rng(0))  # type: ignore[arg-type]
        swaps = [(int(a) - 1, int(b) - 1) for r, s in zip(phones, found, strict=True) if s[3] == 0
                 for a, b in zip(r, s[:3], strict=True) if a != b]  # fmt: skip
        return float(np.mean([apart[pair] for pair in swaps]))

    assert mean("articulatory") < 0.6 * mean("uniform")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edits": (0, 2)}, "edits are the fewest and the most"),
        ({"edits": (3, 1)}, "edits are the fewest and the most"),
        ({"edits": (1,)}, "edits are the fewest and the most"),
        ({"weighting": "letters"}, "weighting is 'uniform' or 'articulatory'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Confuser(**arguments)


def test_without_panphon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    distances.cache_clear()
    monkeypatch.setitem(sys.modules, "panphon.featuretable", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[phonology\]'"):
        Confuser(weighting="articulatory")
