"""The pair protocols: what an episode may hold, that it is reproducible, and shortcuts."""

from collections import defaultdict

import numpy as np
import pytest
from lightsleeper.data.lexicon import Lexicon, common_words, libriphrase_distance, near_words
from lightsleeper.data.pairs import (
    EASY,
    HARD,
    POSITIVE,
    Pairs,
    build_closed_set,
    build_p1,
    expand_p2,
    shortcut_auc,
)
from lightsleeper.errors import UserError

lexicon = Lexicon.default()


def corpus(phrases: int = 60, voices: int = 4, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    words = common_words(1000)
    texts = [" ".join(rng.choice(words, size)) for size in (1, 2, 3) for _ in range(phrases)]
    texts = list(dict.fromkeys(texts))
    return [text for text in texts for _ in range(voices)], [f"voice {v}" for _ in texts for v in range(voices)]


TEXTS, SPEAKERS = corpus()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return build_p1(TEXTS, SPEAKERS, seed=3)


def typed(pairs: Pairs, row: int) -> str:
    return pairs.texts[pairs.text[row]]


def test_each_episode_has_three_of_each_kind(pairs: Pairs) -> None:
    for episode in np.unique(pairs.episode):
        assert np.bincount(pairs.kind[pairs.episode == episode], minlength=3).tolist() == [3, 3, 3]


def test_an_episode_types_one_text_and_repeats_no_clip(pairs: Pairs) -> None:
    for episode in np.unique(pairs.episode):
        rows = pairs.episode == episode
        assert len(np.unique(pairs.text[rows])) == 1
        assert len(np.unique(pairs.clip[rows])) == rows.sum()


def test_labels_and_word_counts_follow_from_what_the_clip_says(pairs: Pairs) -> None:
    for row in range(len(pairs)):
        said = TEXTS[pairs.clip[row]]
        assert pairs.label[row] == (said == typed(pairs, row)) == (pairs.kind[row] == POSITIVE)
        assert len(said.split()) == len(typed(pairs, row).split()) == pairs.word_count[row]


def test_positives_of_an_episode_are_different_voices(pairs: Pairs) -> None:
    for episode in np.unique(pairs.episode):
        clips = pairs.clip[(pairs.episode == episode) & (pairs.kind == POSITIVE)]
        assert len({SPEAKERS[clip] for clip in clips}) == 3


@pytest.mark.parametrize("distance", ["phones", "libriphrase"])
def test_hard_negatives_are_the_nearest_texts_with_as_many_words(distance: str) -> None:
    pairs = build_p1(TEXTS, SPEAKERS, distance=distance)  # type: ignore[arg-type]
    spoken = {text: lexicon.pronounce(text) for text in TEXTS}

    def apart(a: str, b: str) -> int:
        if distance == "libriphrase":
            return libriphrase_distance(spoken[a].joined, spoken[b].joined)
        from lightsleeper.data.distance import edit_distance

        return edit_distance(spoken[a].phones, spoken[b].phones)

    for episode in np.unique(pairs.episode)[::17]:
        rows = np.flatnonzero((pairs.episode == episode) & (pairs.kind == HARD))
        text = typed(pairs, rows[0])
        group = [other for other in spoken if len(other.split()) == len(text.split())]
        expected = sorted(d for other in group if (d := apart(text, other)) > 0)[:3]
        assert sorted(apart(text, TEXTS[pairs.clip[row]]) for row in rows) == expected


def test_homophones_are_never_negatives() -> None:
    texts = ["two", "too", "shoe", "to", "true", "do", "who"]
    clips = [text for text in texts for _ in range(4)]
    pairs = build_p1(clips, [str(i % 4) for i in range(len(clips))])
    for row in np.flatnonzero(pairs.label == 0):
        assert lexicon.word(typed(pairs, row)) != lexicon.word(clips[pairs.clip[row]])


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others(pairs: Pairs) -> None:
    assert build_p1(TEXTS, SPEAKERS, seed=3).content_hash() == pairs.content_hash()
    assert build_p1(TEXTS, SPEAKERS, seed=4).content_hash() != pairs.content_hash()


def test_a_text_without_enough_voices_is_only_a_negative() -> None:
    texts = ["cat", "cat", "cat", "cat", "dog", "dog", "bird"]
    speakers = ["a", "b", "c", "d", "a", "b", "a"]
    pairs = build_p1(texts, speakers)
    assert pairs.texts == ["cat"]
    fewer = build_p1(texts, speakers, fewer_positives=True)
    assert fewer.texts == ["cat", "dog"]


def test_a_voice_gives_at_most_one_positive_and_never_the_anchors() -> None:
    texts = ["cat"] * 8 + ["dog"] * 8
    speakers = ["a", "b", "c", "d"] * 4  # each voice says each text twice
    for seed in range(10):
        pairs = build_p1(texts, speakers, seed)
        for episode in np.unique(pairs.episode):
            clips = pairs.clip[(pairs.episode == episode) & (pairs.kind == POSITIVE)]
            assert len({speakers[clip] for clip in clips}) == 3


def test_unknown_speakers_count_as_different_ones() -> None:
    texts = ["cat"] * 4 + ["dog"] * 4
    assert build_p1(texts, [""] * 8).counts()["positive"] == 6


def test_nothing_to_pair_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="3 clips of 1 texts"):
        build_p1(["cat"] * 3, ["a", "b", "c"])


def test_counts_are_by_kind_and_words(pairs: Pairs) -> None:
    counts = pairs.counts()
    assert counts["pairs"] == len(pairs) == counts["positive"] + counts["easy"] + counts["hard"]
    assert counts["hard"] == counts["hard_w1"] + counts["hard_w2"] + counts["hard_w3"]


def test_select_keeps_columns_together(pairs: Pairs) -> None:
    hard = pairs.select(pairs.kind == HARD)
    assert set(hard.label) == {0}
    assert hard.protocol == "P1"
    assert hard.texts == pairs.texts


def test_closed_set_pairs_every_clip_with_every_text_that_sounds_different() -> None:
    pairs = build_closed_set(["one", "three", "free"], ["one", "won", "three", "free", "banana"])
    rows = defaultdict(dict)
    for row in range(len(pairs)):
        rows[pairs.clip[row]][typed(pairs, row)] = pairs.kind[row]
    assert rows[0] == {"one": POSITIVE, "three": EASY, "free": EASY, "banana": EASY} | {
        "three": rows[0]["three"],
        "free": rows[0]["free"],
        "banana": rows[0]["banana"],
    }
    assert list(rows[0].values()).count(HARD) == 1
    assert rows[1] == {"one": EASY, "won": EASY, "three": POSITIVE, "free": HARD, "banana": EASY}
    assert pairs.protocol == "closed set"
    assert pairs.episode.tolist() == pairs.clip.tolist()


def test_in_a_closed_set_the_clips_of_one_speaker_are_one_episode() -> None:
    said = ["one", "three", "one", "three", "one"]
    pairs = build_closed_set(said, ["one", "three"], speakers=["ann", "bob", "ann", "", ""])
    episode = dict(zip(pairs.clip.tolist(), pairs.episode.tolist(), strict=True))
    assert episode[0] == episode[2]
    assert len({episode[clip] for clip in range(5)}) == 4
    alone = build_closed_set(said, ["one", "three"])
    assert alone.episode.tolist() == alone.clip.tolist()


def test_p2_makes_four_balanced_pairs_of_each_negative_row() -> None:
    pairs = expand_p2(
        anchor=[0, 0, 0],
        anchor_text=["cat", "cat", "cat"],
        comparison=[1, 2, 3],
        comparison_text=["cat", "dog", "cap"],
        kind=[POSITIVE, EASY, HARD],
        episode=[5, 5, 5],
    )
    found = [(int(c), typed(pairs, i), int(pairs.label[i]), int(pairs.kind[i])) for i, c in enumerate(pairs.clip)]
    assert found == [
        (0, "cat", 1, POSITIVE),
        (0, "dog", 0, EASY),
        (2, "dog", 1, POSITIVE),
        (2, "cat", 0, EASY),
        (0, "cat", 1, POSITIVE),
        (0, "cap", 0, HARD),
        (3, "cap", 1, POSITIVE),
        (3, "cat", 0, HARD),
    ]
    assert pairs.protocol == "P2"
    assert set(pairs.episode) == {5}


def test_families_of_near_phrases_leave_no_shortcut() -> None:
    rng = np.random.default_rng(0)
    words = common_words(1000)
    near = near_words(words, 10, cached=False)
    bases = [list(rng.choice(words, size)) for size in (1, 2, 3) for _ in range(50)]
    texts = [" ".join(t) for base in bases for t in (base, *(near.confuse(base, rng) or base for _ in range(3)))]
    clips = [text for text in dict.fromkeys(texts) for _ in range(4)]
    pairs = build_p1(clips, [str(i % 4) for i in range(len(clips))])
    phones = {text: len(lexicon.pronounce(text).phones) for text in texts}
    seconds = np.array([phones[text] * 0.08 for text in clips]) + rng.normal(0, 0.1, len(clips))
    result = shortcut_auc(pairs, seconds, np.array([phones[text] for text in pairs.texts]))
    assert result["phone_count"] == 0.5  # each text is typed equally often right and wrong
    assert result["text"] == pytest.approx(0.5, abs=0.05)
    assert result["duration"] < 0.55
    assert result["duration_and_count"] > 0.55  # what a listener may use: known, not hidden


def test_planted_shortcuts_are_found(pairs: Pairs) -> None:
    phones = np.array([len(lexicon.pronounce(text).phones) for text in pairs.texts])
    seconds = np.ones(len(TEXTS))
    seconds[pairs.clip[pairs.kind == HARD]] = 0.5
    assert shortcut_auc(pairs, seconds, phones)["duration"] > 0.7
    rows = np.flatnonzero((pairs.kind == POSITIVE) | (pairs.kind == HARD))
    biased = pairs.select(rows)
    biased.texts = [*pairs.texts, *(f"{text} zebra" for text in pairs.texts)]
    biased.text = biased.text + len(pairs.texts) * (biased.kind == HARD)
    long = np.concatenate([phones, phones + 20])
    result = shortcut_auc(biased, seconds, long)
    assert result["text"] > 0.95
    assert result["phone_count"] > 0.95
