"""The published construction of LibriPhrase from aligned words (Shin et al., Interspeech 2022; public recipe, MIT).

Its quirks are kept on purpose: easy negatives have no distance filter, the phone distance is the modified one, and
positives are drawn once for the three anchors of a (speaker, text). Two things are ours: a seeded generator instead
of NumPy's unseeded global one, and pronunciations by our lexicon instead of g2p_en's tagger-dependent ones.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.alignments import WordTable
from lightsleeper.data.distance import nearest
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.files import replacing

SHORTEST_S, LONGEST_S = 0.5, 2.0  # sum of the words' own durations
COLUMNS = ("anchor", "anchor_spk", "anchor_text", "anchor_dur", "comparison", "comparison_spk", "comparison_text",
           "comparison_dur", "type", "target", "class")  # fmt: skip
TYPES = {"diffspk_positive": 0, "diffspk_easyneg": 1, "diffspk_hardneg": 2}
"""Type of a row to the ``kind`` of a pair."""


@dataclass
class Phrases:
    """Every run of ``words`` words of a word table that may be a phrase; arrays have one entry per phrase."""

    words: int
    table: WordTable
    first: NDArray[np.int64]
    """Row of the first word in the table."""
    text: NDArray[np.int64]
    """Position in ``texts()``; numbered in the order of first occurrence."""
    speaker: NDArray[np.int64]
    seconds: NDArray[np.float64]
    """Sum of the words' durations."""
    speakers: list[str]

    def __len__(self) -> int:
        return len(self.first)

    def texts(self) -> list[str]:
        """All distinct texts, first seen first."""
        at = np.unique(self.text, return_index=True)[1]
        vocabulary, word = self.table.vocabulary, self.table.word
        return [" ".join(vocabulary[word[i + k]] for k in range(self.words)) for i in self.first[at]]

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Phrases":
        """Some of the phrases, texts numbered anew."""
        text = _first_seen(self.text[chosen])
        return Phrases(
            self.words, self.table, self.first[chosen], text, self.speaker[chosen], self.seconds[chosen], self.speakers
        )

    def clip(self, phrase: int) -> tuple[str, float, float]:
        """Utterance, start and end in seconds."""
        row, table = int(self.first[phrase]), self.table
        return table.utterances[table.utterance[row]], float(table.start[row]), float(table.end[row + self.words - 1])


def find_phrases(table: WordTable, words: int) -> Phrases:
    """Step 1: runs of ``words`` neighbouring words without a pause between, 0.5 to 2 s of speech."""
    count = max(0, len(table.word) - words + 1)
    rows = np.arange(count)
    good = np.ones(count, np.bool_)
    seconds = np.zeros(count)
    key = np.zeros(count, np.int64)
    durations = table.end - table.start
    for offset in range(words):
        part = slice(offset, offset + count)
        good &= (table.word[part] >= 0) & (table.utterance[part] == table.utterance[:count])
        seconds += durations[part]
        # Renumbered after each word, so that keys stay small whatever the vocabulary.
        key = np.unique(key * (len(table.vocabulary) + 1) + table.word[part] + 1, return_inverse=True)[1].astype(
            np.int64
        )
    good &= (seconds >= SHORTEST_S) & (seconds <= LONGEST_S)
    names = table.speakers()
    speakers = list(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(speakers)}
    of_utterance = np.array([number[name] for name in names], np.int64)
    return Phrases(
        words,
        table,
        rows[good],
        _first_seen(key[good]),
        of_utterance[table.utterance[:count][good]],
        seconds[good],
        speakers,
    )


def _first_seen(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values renumbered 0, 1, ... in the order of their first occurrence."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def most_talkative(groups: Sequence[Phrases], count: int) -> NDArray[np.int64]:
    """Step 2: the ``count`` speakers with most phrases of any length; first seen first among equals."""
    tally = Counter(np.concatenate([group.speaker for group in groups]).tolist())
    return np.array([speaker for speaker, _ in tally.most_common(count)], np.int64)


def find_anchors(phrases: Phrases, speakers: NDArray[np.int64], pairs: int = 3) -> list[tuple[int, int]]:
    """Step 3: (speaker, text) said at least ``2 * pairs`` times and by ``pairs`` of the other chosen speakers."""
    chosen = np.isin(phrases.speaker, speakers)
    texts = int(phrases.text.max(initial=-1)) + 1
    key, times = np.unique(phrases.speaker[chosen] * texts + phrases.text[chosen], return_counts=True)
    said_by = np.bincount(key % texts, minlength=texts) if texts else np.zeros(0, np.int64)
    good = (times >= 2 * pairs) & (said_by[key % texts] - 1 >= pairs)
    order = {int(speaker): rank for rank, speaker in enumerate(speakers)}
    anchors = [(int(k // texts), int(k % texts)) for k in key[good]]
    return sorted(anchors, key=lambda anchor: (order[anchor[0]], anchor[1]))


@dataclass(frozen=True)
class Row:
    """One comparison: phrase numbers of anchor and comparison, and the type."""

    anchor: int
    comparison: int
    type: str


def build_rows(phrases: Phrases, anchors: Sequence[tuple[int, int]], seed: int, pairs: int = 3) -> list[Row]:
    """Steps 4 to 6 for phrases of one length."""
    rng = np.random.default_rng([seed, phrases.words, 5])
    by_key = _group(phrases.speaker * (int(phrases.text.max(initial=-1)) + 1) + phrases.text)
    keys = list(by_key.values())  # phrases of each (speaker, text)
    key_text = np.array([phrases.text[members[0]] for members in keys], np.int64)
    key_speaker = np.array([phrases.speaker[members[0]] for members in keys], np.int64)
    of_text = _group(key_text)
    number = {(int(s), int(t)): i for i, (s, t) in enumerate(zip(key_speaker, key_text, strict=True))}
    near = _hard_texts(phrases, sorted({text for _, text in anchors}), pairs)

    def any_of(key: int) -> int:
        return int(rng.choice(keys[key]))

    rows: list[Row] = []
    for speaker, text in anchors:
        own = rng.choice(keys[number[speaker, text]], 2 * pairs, replace=False)[:pairs]
        others = [key for key in of_text[text] if key_speaker[key] != speaker]
        positives = [any_of(key) for key in rng.choice(others, pairs, replace=False)]
        for anchor in own:
            rows += [Row(int(anchor), positive, "diffspk_positive") for positive in positives]
            for key in _other_keys(key_text, text, pairs, rng):
                rows.append(Row(int(anchor), any_of(key), "diffspk_easyneg"))
            for hard in near[text]:
                rows.append(Row(int(anchor), any_of(int(rng.choice(of_text[hard]))), "diffspk_hardneg"))
    return rows


def _group(values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Positions of each value, values in the order of first occurrence."""
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    parts = sorted(np.split(order, cuts), key=lambda part: part[0]) if len(values) else []
    return {int(values[part[0]]): part for part in parts}


def _other_keys(key_text: NDArray[np.int64], text: int, count: int, rng: np.random.Generator) -> list[int]:
    """Step 5: ``count`` different (speaker, other text) keys; the text may be as close as chance has it."""
    available = int((key_text != text).sum())
    chosen: list[int] = []
    while len(chosen) < min(count, available):
        key = int(rng.integers(len(key_text)))
        if key_text[key] != text and key not in chosen:
            chosen.append(key)
    return chosen


def _hard_texts(phrases: Phrases, anchors: Sequence[int], count: int) -> dict[int, list[int]]:
    """Step 6: the nearest other texts by the published distance, 0 < distance <= 5 (words + 2)."""
    lexicon = Lexicon.default()
    joined = [lexicon.pronounce(text).joined for text in phrases.texts()]
    limit = 5 * (phrases.words + 2)
    found, _ = nearest([joined[text] for text in anchors], joined, count, published=True, limit=limit)
    return {text: [int(i) for i in row if i >= 0] for text, row in zip(anchors, found, strict=True)}


def write_csv(folder: Path, phrases: Phrases, rows: Sequence[Row], subset: str) -> None:
    """``libriphrase_diffspk_all_{w}word.csv`` with the published columns, sorted as published.

    Clips keep the published names (``985/126224/985-126224-0003_1word_0.wav``), but no audio is copied:
    ``clips_{w}word.csv`` says which stretch of which recording each one is.
    """
    texts, kind = phrases.texts(), f"{phrases.words}word"
    names: dict[int, str] = {}
    in_utterance: Counter[str] = Counter()

    def name(phrase: int) -> str:
        if phrase not in names:
            utterance = phrases.clip(phrase)[0]
            speaker, chapter = utterance.split("-")[:2]
            names[phrase] = f"{subset}/{speaker}/{chapter}/{utterance}_{kind}_{in_utterance[utterance]}.wav"
            in_utterance[utterance] += 1
        return names[phrase]

    def side(phrase: int) -> tuple[str, str, str, str]:
        speaker, text = phrases.speakers[phrases.speaker[phrase]], texts[phrases.text[phrase]]
        return name(phrase), speaker, text, f"{phrases.seconds[phrase]:.2f}"

    lines = [
        (*side(row.anchor), *side(row.comparison), row.type, int(row.type == "diffspk_positive"), phrases.words)
        for row in rows
    ]
    lines.sort(key=lambda line: (line[1], line[2], line[9], line[8], line[5]))
    clips = ((clip, *phrases.clip(phrase)) for phrase, clip in names.items())
    for file, header, body in (
        (f"clips_{kind}.csv", ("clip", "utterance", "start", "end"), clips),
        (f"libriphrase_diffspk_all_{kind}.csv", COLUMNS, lines),
    ):
        with replacing(folder / file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(header)
            writer.writerows(body)
