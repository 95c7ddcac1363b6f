"""Which recordings train, which validate and which test: no voice on two sides.

Beside recordings that name their speaker, those that do not could be by anybody, so they are tested on their own and
never trained on. Where no recording names its speaker, single clips are split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightsleeper.data.manifest import Recording
from lightsleeper.errors import UserError

TEST, UNSEEN_WORDS, UNKNOWN_SPEAKERS = "test", "test unseen_words", "test unknown_speakers"


def set_name(part: str) -> str:
    """The name of a test set by its part; the main one has the empty name."""
    return part.removeprefix(TEST).strip()


def split_by_speaker(
    recordings: Sequence[Recording],
    usable: Sequence[int],
    rng: np.random.Generator,
    test_speakers: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    held_out_texts: Sequence[str] = (),
) -> dict[str, list[int]]:
    """Clip numbers by part: train, val, test, and where there are any, the two other test sets.

    Raises:
        UserError: a part would be empty.
    """
    named = any(recordings[clip].speaker for clip in usable)
    speaker = {clip: recordings[clip].speaker or f"clip {clip}" for clip in usable}
    unknown = [clip for clip in usable if named and not recordings[clip].speaker]
    for clip in unknown:
        del speaker[clip]
    names = list(dict.fromkeys(speaker.values()))
    test = set(test_speakers or draw(names, test_fraction, rng))
    rest = [name for name in names if name not in test]
    val = set(draw(rest, val_fraction, rng)) if len(rest) > 1 else set()
    parts: dict[str, list[int]] = {"train": [], "val": [], TEST: [], UNSEEN_WORDS: [], UNKNOWN_SPEAKERS: unknown}
    for clip, name in speaker.items():
        unseen = recordings[clip].text in held_out_texts
        if name in test:
            parts[UNSEEN_WORDS if unseen else TEST].append(clip)
        elif not unseen:
            parts["val" if name in val else "train"].append(clip)
    if not val and len(parts["train"]) > 1:  # one training speaker: validate on some of its clips
        parts["val"] = draw(parts["train"], val_fraction, rng)
        parts["train"] = [clip for clip in parts["train"] if clip not in set(parts["val"])]
    if not held_out_texts:
        del parts[UNSEEN_WORDS]
    if not unknown:
        del parts[UNKNOWN_SPEAKERS]
    for part, clips in parts.items():
        if not clips:
            raise UserError(
                f"no recordings left for '{part}' ({len(names)} speakers, {len(speaker)} clips): change "
                "test_speakers, the fractions or held_out_texts, or set evaluate_only."
            )
    return parts


def limited(clips: list[int], most: int | None, rng: np.random.Generator) -> list[int]:
    """At most ``most`` of the clips, drawn at random, in their order."""
    if most is None or len(clips) <= most:
        return clips
    return sorted(clips[i] for i in rng.permutation(len(clips))[:most])


def draw(names: Sequence[Any], share: float, rng: np.random.Generator) -> list[Any]:
    """A random ``share`` of ``names``, at least one, never all of several."""
    count = min(max(1, round(share * len(names))), max(1, len(names) - 1))
    return [names[i] for i in sorted(rng.permutation(len(names))[:count])]
