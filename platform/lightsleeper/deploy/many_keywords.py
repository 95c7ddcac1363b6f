"""Typed keywords, any number at once: the audio encoder runs once, and one call of the match graph scores them all.

Two graphs stand beside `model` and `enroll` in a matcher's deliverable. `encoder` turns audio (1, samples) into frames:
``log_probs`` (1, N, 40) and what else matching reads. `match` takes rows, each the frames of one stretch (R, n, .) with
``frame_count`` (R,) and an enrolled text, and gives ``score`` (R,) and perhaps other scores and ``cuts``. Inputs are
fed by name: families differ in theirs. A keyword with several pronunciations has a row for each, and the best counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.keyword import Keyword
from lightsleeper.deploy.onnx_graph import Arrays, Graph, OnnxGraph
from lightsleeper.deploy.segments import Sought, best_segments
from lightsleeper.errors import UserError
from lightsleeper.phones import PHONES

ENCODER, MATCH, ENROLL = "encoder", "match", "enroll"
SHORTEST_S = 0.2
"""Shorter audio is padded: a scan over no frame fails in ONNX Runtime, and no keyword is as short."""
MOST_PHONES = 48
_LEAST = 2  # phones and tokens of a row: graphs take no fewer


@dataclass(frozen=True)
class Enrolled:
    """Texts as rows of the match graph."""

    keywords: tuple[Keyword, ...]
    """One a row."""
    owner: NDArray[np.int64]
    """(R,) number of the keyword that a row is a pronunciation of."""
    texts: tuple[str, ...]
    """The keywords, by number."""
    inputs: Arrays
    """What the match graph takes of texts, each (R, ...)."""
    sought: Sought

    def best(self, scores: NDArray[np.floating]) -> NDArray[np.intp]:
        """The row of the highest score of each keyword, by number."""
        order = np.lexsort((-scores, self.owner))
        return order[np.searchsorted(self.owner[order], np.arange(len(self.texts)))]


class ManyKeywords:
    """A matcher for any number of keywords.

    Example::

        matcher = ManyKeywords.open("export/model.onnx")
        enrolled = matcher.enroll([[keyword], [another, said_otherwise]])
        frames = matcher.encode(audio)
        scores = matcher.match(frames, enrolled)["score"]  # (rows,)

    Raises:
        UserError: the deliverable has no graphs for many keywords, or those of another phone inventory.
    """

    def __init__(self, encoder: Graph, match: Graph, enroller: Graph | None = None) -> None:
        self.encoder, self.matcher, self.enroller = encoder, match, enroller
        self.metadata = match.metadata
        stored = self.metadata.get("phones")
        if stored is not None and tuple(stored.split()) != PHONES:
            raise UserError(f"{match.name}: made for another phone inventory ({len(stored.split())} phones).")
        self.sample_rate = int(float(self.metadata.get("sample_rate", 16_000)))
        self.frame_s = float(self.metadata.get("frame_ms", 40.0)) / 1000
        text = {"phones", "phone_count", "words"} | set(enroller.outputs if enroller else ())
        if unknown := match.inputs.keys() - text - set(encoder.outputs) - {"frame_count"}:
            raise UserError(f"{match.name}: nothing gives its input {', '.join(sorted(unknown))}.")

    @classmethod
    def open(cls, path: str | Path, threads: int = 1) -> "ManyKeywords":
        """The graphs beside the file ``path`` of a deliverable."""
        files = {name: Path(path).with_name(f"{name}.onnx") for name in (ENCODER, MATCH, ENROLL)}
        for name in (ENCODER, MATCH):
            if not files[name].is_file():
                raise UserError(
                    f"{path} has no {name}.onnx beside it, which keywords in a stream need: export the run again."
                )
        enroll = OnnxGraph(files[ENROLL], threads) if files[ENROLL].is_file() else None
        return cls(OnnxGraph(files[ENCODER], threads), OnnxGraph(files[MATCH], threads), enroll)

    @property
    def threshold(self) -> float | None:
        """Decision threshold stored with the model; None when it was not calibrated."""
        value = float(self.metadata.get("threshold", "nan"))
        return None if np.isnan(value) else value

    def enroll(self, keywords: Sequence[Sequence[Keyword]]) -> Enrolled:
        """Rows of ``keywords``, each given by its pronunciations. Raises UserError for a text that is too long."""
        rows = [keyword for ways in keywords for keyword in ways]
        owner = np.array([number for number, ways in enumerate(keywords) for _ in ways])
        counts = np.array([len(keyword.phones) for keyword in rows])
        if counts.max() > MOST_PHONES:
            long = rows[int(counts.argmax())]
            raise UserError(f"'{long.text}' has {counts.max()} phones: it is too long, a text has up to {MOST_PHONES}.")
        typed: Arrays = {
            "phones": _padded([keyword.phones for keyword in rows], 0),
            "words": _padded([keyword.words for keyword in rows], -1),
            "phone_count": counts,
        }
        inputs = {**typed, **self._tokens(typed, rows)}
        longest = max(_LEAST, int(counts.max()))
        for name in ("phones", "words"):
            inputs[name] = inputs[name][:, :longest]
        inputs = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self.matcher.inputs}
        return Enrolled(
            tuple(rows), owner, tuple(ways[0].text for ways in keywords), inputs, Sought.of(typed["phones"])
        )

    def _tokens(self, typed: Arrays, rows: Sequence[Keyword]) -> Arrays:
        """The enrolment graph's outputs, (R, ...), trimmed to the longest text."""
        if self.enroller is None:
            return {}
        made = [
            self.enroller.run({name: typed[name][row : row + 1] for name in self.enroller.inputs})
            for row in range(len(rows))
        ]
        tokens = {name: np.concatenate([one[name] for one in made]) for name in made[0]}
        if "token_count" in tokens and "tokens" in tokens:
            most = tokens["tokens"].shape[1]
            if (count := int(tokens["token_count"].max())) > most:
                raise UserError(f"a text of {count} words is too long: this model takes up to {most}.")
            tokens["tokens"] = tokens["tokens"][:, : max(_LEAST, count)]
        return tokens

    def encode(self, audio: NDArray[np.floating]) -> Arrays:
        """Frames (1, N, ...) of audio (S,) at ``sample_rate``."""
        shortest = int(SHORTEST_S * self.sample_rate)
        audio = np.pad(audio.astype(np.float32), (0, max(0, shortest - len(audio))))
        return self.encoder.run({"audio": audio[None]})

    def match(
        self,
        frames: Mapping[str, NDArray],
        enrolled: Enrolled,
        stretches: NDArray[np.int64] | None = None,
        rows: NDArray[np.intp] | None = None,
    ) -> Arrays:
        """The match graph's outputs, each (R, ...).

        ``stretches`` (R, 2): first frame and the one after the last of each row; None: all frames. ``rows``: only
        these, in this order.
        """
        count = len(enrolled.owner) if rows is None else len(rows)
        length = next(iter(frames.values())).shape[1]
        first, end = (np.zeros(count, np.int64), np.full(count, length)) if stretches is None else stretches.T
        values = dict(enrolled.inputs) if rows is None else _chosen(enrolled.inputs, rows)
        place = first[:, None] + np.arange(int((end - first).max()))
        inside = place < end[:, None]
        for name in self.matcher.inputs.keys() & frames.keys():
            values[name] = frames[name][0][np.minimum(place, length - 1)] * inside[:, :, None]
        values["frame_count"] = end - first
        return self.matcher.run(values)

    def segments(
        self, frames: Mapping[str, NDArray], enrolled: Enrolled, earliest: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """How well the best stretch for each row fits its phones (R,), and the stretches (R, 2); as `best_segments`."""
        if "log_probs" not in frames:
            raise UserError(f"{self.encoder.name} gives no log_probs to find keywords in a stream by.")
        return best_segments(frames["log_probs"][0], enrolled.sought, earliest)


def _chosen(inputs: Arrays, rows: NDArray[np.intp]) -> Arrays:
    """``rows`` of a match graph's texts, no longer than the longest of them."""
    values = {name: value[rows] for name, value in inputs.items()}
    for name, count in (("phones", "phone_count"), ("words", "phone_count"), ("tokens", "token_count")):
        if name in values and count in values:
            values[name] = values[name][:, : max(_LEAST, int(values[count].max()))]
    return values


def has_graphs(path: str | Path) -> bool:
    """Whether the file ``path`` of a deliverable has the graphs for many keywords beside it."""
    path = Path(path)
    return path.stem == "model" and all(path.with_name(f"{name}.onnx").is_file() for name in (ENCODER, MATCH))


def _padded(rows: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    """(R, MOST_PHONES)."""
    table = np.full((len(rows), MOST_PHONES), value, np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
