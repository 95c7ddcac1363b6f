"""Lists of (audio, typed text) pairs with labels: what a keyword spotter is tested on.

P1 is the episode protocol of LibriPhrase as CMCD and DSP report it: the typed text is the anchor's, the audio is the
comparison clip. P2 is the expansion of PhonMatchNet's loader. Their numbers must never be mixed, so a list carries
its protocol's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.distance import distances, nearest
from lightsleeper.data.lexicon import Lexicon, Pronounces
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

POSITIVE, EASY, HARD = 0, 1, 2
KINDS = ("positive", "easy", "hard")
Distance = Literal["phones", "libriphrase"]


@dataclass
class Pairs:
    """Columns of equal length, one entry per pair."""

    clip: NDArray[np.int64]
    """Audio identity: equal number, equal audio."""
    text: NDArray[np.int64]
    """Position of the typed text in ``texts``."""
    label: NDArray[np.int64]
    """1: the audio says the text."""
    kind: NDArray[np.int64]
    """0 positive, 1 easy negative, 2 hard negative."""
    episode: NDArray[np.int64]
    """Pairs that are not independent share a number: the unit of the bootstrap."""
    word_count: NDArray[np.int64]
    texts: list[str] = field(default_factory=list)
    protocol: str = "P1"

    def __len__(self) -> int:
        return len(self.clip)

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Pairs":
        """Some of the pairs, all texts kept."""
        clip, text, label, kind, episode, word_count = (column[chosen] for column in self.columns())
        return Pairs(clip, text, label, kind, episode, word_count, self.texts, self.protocol)

    def columns(self) -> tuple[NDArray[np.int64], ...]:
        return self.clip, self.text, self.label, self.kind, self.episode, self.word_count

    def counts(self) -> dict[str, int]:
        """Pairs by kind and number of words, such as ``{"pairs": 900, "episodes": 150, "hard_w2": 120}``."""
        result = {"pairs": len(self), "episodes": len(np.unique(self.episode)), "clips": len(np.unique(self.clip))}
        for kind, name in enumerate(KINDS):
            chosen = self.kind == kind
            result[name] = int(chosen.sum())
            for words in np.unique(self.word_count[chosen]):
                result[f"{name}_w{words}"] = int((chosen & (self.word_count == words)).sum())
        return result

    def content_hash(self) -> str:
        """Changes when any pair, text or the protocol changes."""
        return content_hash([self.protocol, self.texts, [column.tolist() for column in self.columns()]])


class PairRows:
    """Collects pairs one by one; ``finish`` makes the columns."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._texts: dict[str, int] = {}

    def add(self, clip: int, text: str, kind: int, episode: int) -> None:
        position = self._texts.setdefault(text, len(self._texts))
        self._rows.append((clip, position, int(kind == POSITIVE), kind, episode, len(text.split())))

    def __len__(self) -> int:
        return len(self._rows)

    def finish(self) -> Pairs:
        table = np.array(self._rows, np.int64).reshape(len(self._rows), 6)
        clip, text, label, kind, episode, word_count = np.ascontiguousarray(table.T)
        return Pairs(clip, text, label, kind, episode, word_count, list(self._texts), self.protocol)


def build_p1(
    texts: Sequence[str],
    speakers: Sequence[str],
    seed: int = 0,
    positives: int = 3,
    easy: int = 3,
    hard: int = 3,
    distance: Distance = "phones",
    lexicon: Pronounces | None = None,
    fewer_positives: bool = False,
) -> Pairs:
    """The episode protocol over clips: ``texts[i]`` is what clip ``i`` says, ``speakers[i]`` who ("": unknown).

    One episode per text. A clip of the text is drawn as the anchor; positives are clips of the text by other
    speakers; easy negatives are clips of random other texts with as many words; hard negatives are clips of the
    ``hard`` nearest such texts. Homophones of the anchor never occur in its episode. A text without ``positives``
    other voices makes no episode (with ``fewer_positives``, one is enough) but still serves as a negative.

    Among unrelated texts the nearest tend to be the shorter ones: on 4,000 random phrases duration alone reached 0.58
    AUC on the hard pairs, 0.72 within four-word phrases; on families of phrases one word apart 0.51. So corpora
    should hold near relatives of each text, and ``shortcut_auc`` should be looked at.

    Raises:
        UserError: no text makes an episode.
    """
    if len(texts) != len(speakers):
        raise ValueError(f"{len(texts)} texts but {len(speakers)} speakers")
    rng = np.random.default_rng([seed, 1])
    lexicon = lexicon or Lexicon.default()
    clips_of: dict[str, list[int]] = {}
    for clip, text in enumerate(texts):
        clips_of.setdefault(text, []).append(clip)
    rows = PairRows("P1")
    for group in _by_word_count(list(clips_of)):
        hard_texts, same_sound = _confusable(group, hard, distance, lexicon)
        for position, text in enumerate(group):
            own = _other_voices(clips_of[text], speakers, rng)
            wanted = positives if not fewer_positives else min(positives, max(1, len(own)))
            if len(own) < wanted:
                continue
            episode = len(rows)  # any number that no other episode has
            near = [group[other] for other in hard_texts[position]]
            others = [t for t in group if t not in same_sound[position] and t not in near]
            far = [others[i] for i in rng.permutation(len(others))[:easy]]
            if not near and not far:
                continue
            for clip in own[:wanted]:
                rows.add(clip, text, POSITIVE, episode)
            for kind, chosen in ((EASY, far), (HARD, near)):
                for other in chosen:
                    rows.add(clips_of[other][int(rng.integers(len(clips_of[other])))], text, kind, episode)
    if not len(rows):
        raise UserError(
            f"no episode can be built from {len(texts)} clips of {len(clips_of)} texts: a text needs "
            f"{positives} clips by voices other than the anchor's, and another text with as many words."
        )
    pairs = rows.finish()
    pairs.episode = np.unique(pairs.episode, return_inverse=True)[1].astype(np.int64)
    return pairs


def build_closed_set(
    texts: Sequence[str],
    vocabulary: Sequence[str] | None = None,
    lexicon: Pronounces | None = None,
    speakers: Sequence[str] | None = None,
) -> Pairs:
    """Every clip against every text of a small vocabulary; the text nearest to the spoken one is a hard negative.

    An episode, what intervals draw again, is one speaker: clips of one are not independent. A clip that names none is
    one of its own. Texts that sound alike are not paired with each other's clips.
    """
    names = speakers if speakers is not None else [""] * len(texts)
    known = {name: number for number, name in enumerate(dict.fromkeys(filter(None, names)))}
    episodes = [known[name] if name else len(known) + clip for clip, name in enumerate(names)]
    lexicon = lexicon or Lexicon.default()
    vocabulary = list(dict.fromkeys(vocabulary if vocabulary is not None else texts))
    spoken = list(dict.fromkeys(texts))
    phones = {text: lexicon.pronounce(text).phones for text in dict.fromkeys([*vocabulary, *spoken])}
    table = distances([phones[t] for t in spoken], [phones[t] for t in vocabulary])
    rows = PairRows("closed set")
    for clip, said in enumerate(texts):
        line = table[spoken.index(said)]
        apart = line[line > 0]
        closest = int(np.flatnonzero(line == apart.min())[0]) if len(apart) else -1
        for position, text in enumerate(vocabulary):
            if text == said:
                rows.add(clip, text, POSITIVE, episodes[clip])
            elif line[position] > 0:
                rows.add(clip, text, HARD if position == closest else EASY, episodes[clip])
    if not len(rows):
        raise UserError("no pair can be built: there are no clips, or no texts to compare them with.")
    return rows.finish()


def expand_p2(
    anchor: Sequence[int],
    anchor_text: Sequence[str],
    comparison: Sequence[int],
    comparison_text: Sequence[str],
    kind: Sequence[int],
    episode: Sequence[int],
) -> Pairs:
    """PhonMatchNet's expansion of LibriPhrase rows: each negative row becomes two positive and two negative pairs.

    Rows of kind 0 (positives) are not used, as published. ``anchor`` and ``comparison`` are clip numbers. The list is
    balanced 1:1; evaluate the easy and the hard rows as separate lists, since each has its own positives.
    """
    rows = PairRows("P2")
    for first, first_text, second, second_text, row_kind, number in zip(
        anchor, anchor_text, comparison, comparison_text, kind, episode, strict=True
    ):
        if row_kind == POSITIVE:
            continue
        rows.add(first, first_text, POSITIVE, number)
        rows.add(first, second_text, row_kind, number)
        rows.add(second, second_text, POSITIVE, number)
        rows.add(second, first_text, row_kind, number)
    return rows.finish()


def shortcut_auc(
    pairs: Pairs, durations: NDArray[np.floating], phone_counts: NDArray[np.integer], kind: int = HARD
) -> dict[str, float]:
    """AUC of scorers that cannot know what was said, on positives against negatives of ``kind``; 0.5 is none.

    ``durations[clip]`` in seconds, ``phone_counts[text]``. ``duration`` sees only the clip's length, ``phone_count``
    only the typed text's, both in their better direction; ``text`` only the words typed (log odds of each word,
    learned on the other half of the episodes). ``duration_and_count`` compares the length with what the text would
    take: a fair, weak cue, reported but no fault.
    """
    pairs = pairs.select((pairs.kind == POSITIVE) | (pairs.kind == kind))
    seconds = np.asarray(durations, np.float64)[pairs.clip]
    counts = np.asarray(phone_counts, np.float64)[pairs.text]
    spoken = pairs.label == 1
    slope, offset = np.polyfit(counts[spoken], seconds[spoken], 1) if len(np.unique(counts[spoken])) > 1 else (0, 1)
    expected = np.maximum(slope * counts + offset, 0.05)
    scores = {
        "duration": seconds,
        "phone_count": counts,
        "text": _text_prior(pairs),
        "duration_and_count": -np.abs(np.log(np.maximum(seconds, 0.01) / expected)),
    }
    result = {name: _auc(score, spoken) for name, score in scores.items()}
    return result | {name: max(result[name], 1 - result[name]) for name in ("duration", "phone_count")}


def _text_prior(pairs: Pairs) -> NDArray[np.float64]:
    """How much likelier each pair's words are to be typed in a match, counted on the other half of the episodes."""
    scores = np.zeros(len(pairs))
    words = [pairs.texts[text].split() for text in pairs.text]
    half = pairs.episode % 2
    for side in (0, 1):
        tally: dict[str, list[float]] = {}
        for row in np.flatnonzero(half != side):
            for word in words[row]:
                tally.setdefault(word, [1.0, 1.0])[pairs.label[row]] += 1
        rates = np.bincount(pairs.label[half != side], minlength=2) + 1.0
        prior = np.log(rates[1] / rates[0])
        for row in np.flatnonzero(half == side):
            known = [tally[word] for word in words[row] if word in tally]
            scores[row] = sum(np.log(yes / no) - prior for no, yes in known)
    return scores


def _auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties one half; nan without both."""
    if positive.all() or not positive.any():
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # mean rank among equals, from 1
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _by_word_count(texts: list[str]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for text in texts:
        groups.setdefault(len(text.split()), []).append(text)
    return [groups[count] for count in sorted(groups)]


def _confusable(
    group: list[str], hard: int, distance: Distance, lexicon: Pronounces
) -> tuple[list[list[int]], list[set[str]]]:
    """For each text its nearest others (positions), and the texts that sound the same (itself included)."""
    spoken = [lexicon.pronounce(text) for text in group]
    if distance == "libriphrase":
        indices, _ = nearest([p.joined for p in spoken], [p.joined for p in spoken], hard, published=True)
    else:
        indices, _ = nearest([p.phones for p in spoken], [p.phones for p in spoken], hard)
    alike: dict[tuple[int, ...], set[str]] = {}
    for text, pronunciation in zip(group, spoken, strict=True):
        alike.setdefault(tuple(pronunciation.phones), set()).add(text)
    return [[int(i) for i in row if i >= 0] for row in indices], [alike[tuple(p.phones)] for p in spoken]


def _other_voices(clips: list[int], speakers: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Clips by speakers other than a drawn anchor's, one a speaker, in random order; unknown speakers all differ."""
    order = [clips[i] for i in rng.permutation(len(clips))]
    seen = {speakers[order[0]] or f"clip {order[0]}"}
    others = []
    for clip in order[1:]:
        name = speakers[clip] or f"clip {clip}"
        if name not in seen:
            seen.add(name)
            others.append(clip)
    return others
