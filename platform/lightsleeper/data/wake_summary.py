"""What the record says of the data of a wake word: sizes of the parts, and what they share."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from lightsleeper.data.corpus import Corpus
from lightsleeper.data.streams import Stream
from lightsleeper.data.wake_layout import negative_hours
from lightsleeper.data.wake_recordings import Recordings
from lightsleeper.data.wake_script import PARTS

Found = tuple[dict[str, Any], dict[str, set[Any]]]
"""Sizes of one part by name, and what must not be in another."""


def parts(
    corpus: Corpus | None,
    recordings: Mapping[str, Recordings],
    noise_files: Mapping[str, Sequence[Path]],
    streams: Mapping[str, Mapping[int, Stream]],
) -> dict[str, Any]:
    """``counts`` of each part and ``overlap`` of each two. ``recordings``: of the parts that have any."""
    found = {part: _part(part, corpus, recordings.get(part), noise_files[part]) for part in PARTS}
    for part, laid in streams.items():
        found[part][0].update({
            "streams": len(laid),
            "placed keywords": sum(len(stream.events) for stream in laid.values()),
            "negative hours": round(negative_hours(laid.values()), 3),
        })  # fmt: skip
    overlap = {
        f"{a}/{b}": {kind: len(found[a][1][kind] & found[b][1][kind]) for kind in found[a][1]}
        for a, b in combinations(PARTS, 2)
    }
    return {"counts": {part: counts for part, (counts, _) in found.items()}, "overlap": overlap}


def _part(part: str, corpus: Corpus | None, recordings: Recordings | None, noise: Sequence[Path]) -> Found:
    counts: dict[str, Any] = {}
    shared: dict[str, set[Any]] = {"voices": set(), "near phrases": set(), "recordings": set()}
    if noise:
        counts["noise recordings"] = len(noise)
        shared["noise recordings"] = {str(file) for file in noise}
    if corpus is not None:
        for kind in ("keyword", "near", "speech"):
            clips = corpus.clips(f"{part} {kind}").tolist()
            counts[f"synthesised {kind}"] = len(clips)
            shared["voices"] |= {corpus.voices[clip] for clip in clips}
            if kind == "near":
                shared["near phrases"] |= {corpus.texts[clip] for clip in clips}
        counts |= {"voices": len(shared["voices"]), "near phrases": len(shared["near phrases"])}
    if recordings is not None:
        for kind, clips in (("positive", recordings.positives[part]), ("negative", recordings.negatives[part])):
            counts[f"recorded {kind}"] = len(clips)
            shared["recordings"] |= {str(recordings.takes[clip].file) for clip in clips}
            shared["voices"] |= {recordings.takes[clip].speaker for clip in clips} - {""}
    return counts, shared
