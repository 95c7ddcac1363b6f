"""A word spotter around an exported or a torch model: samples in, found words out, and which of its modules ran.

The model hears a hop (240 ms) a call and proposes a word for each of its steps (40 ms); suppression settles what
nothing later can change. Between two calls it keeps the model's state, less than a hop of samples and the proposals
that are not settled. Any division of the samples into calls gives the same words.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.hops import Rest, StreamGraph, threshold_of
from lightsleeper.metrics.word_events import Suppressor, WordEvent, candidates, proposals

OUTPUTS = ("score", "word", "begin", "end", "next_state")
NEEDED = ("sample_rate", "hop_samples", "step_s", "lead_s", "words")
_HAIR_S = 1e-4  # rounding of times in float32


class Steps(NamedTuple):
    """What a call gives; seconds count from its first sample."""

    score: NDArray[np.float32]
    """(n,) of the best word; 0 where there is none."""
    word: NDArray[np.int64]
    begin_s: NDArray[np.floating]
    end_s: NDArray[np.floating]
    gates: NDArray[np.float32] | None
    """(hops, modules) 1 where a module ran; None where a model has no gates."""
    state: Any


class SpotterModel(Protocol):
    """A model that hears hop by hop."""

    hops: int | None
    """Hops that one call takes, exactly; None: any number."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """``NEEDED``, and where known ``threshold``; with gates ``modules``, ``module_macs`` and ``encoder_macs``."""

    def initial(self) -> Any: ...

    def step(self, audio: NDArray[np.float32], state: Any) -> Steps: ...


class OnnxSpotter(StreamGraph):
    """An exported word spotter: inputs ``audio`` (1, hop) and ``state`` (1, S), outputs ``OUTPUTS`` and perhaps
    ``gates`` (1, modules).

    Raises UserError when the file is missing, no model, or no word spotter.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        super().__init__(path, threads, "word spotter", OUTPUTS, NEEDED)

    def step(self, audio: NDArray[np.float32], state: Any) -> Steps:
        found = self.graph.run({"audio": audio[None], "state": state})
        gates = found["gates"].reshape(-1, found["gates"].shape[-1]) if "gates" in found else None
        score, word, begin, end = (found[name][0] for name in ("score", "word", "begin", "end"))
        return Steps(score, word, begin, end, gates, found["next_state"])


class TorchSpotter:
    """A word spotter in torch, through its ``stream`` and ``initial``.

    ``metadata``: what the exported file would say.
    """

    hops: int | None = None

    def __init__(self, model: Any, metadata: Mapping[str, str]) -> None:
        self.model, self.metadata = model.eval(), metadata

    def initial(self) -> Any:
        return self.model.initial(1)

    def step(self, audio: NDArray[np.float32], state: Any) -> Steps:
        import torch  # a second that an exported file does not need

        with torch.no_grad():
            found = self.model.stream(torch.from_numpy(audio)[None], state)
        columns = (found.score, found.word, found.begin_s, found.end_s)
        score, word, begin_s, end_s = (value[0].cpu().numpy() for value in columns)
        gates = None if found.gates is None else found.gates[0].float().cpu().numpy()
        return Steps(score, word, begin_s, end_s, gates, found.state)


class StreamingSpotter:
    """Feed any number of samples; get the words that have become certain.

    Args:
        model: what hears the stream.
        threshold: None: the one stored with the model, calibrated on validation data.

    Example::

        spotter = StreamingSpotter(OnnxSpotter("export/model.onnx"))
        for samples in microphone:
            for event in spotter.push(samples):
                print(spotter.words[event.word], event.begin_s, event.end_s, event.score)

    Raises:
        UserError: the model has no threshold and none was given.
    """

    def __init__(self, model: SpotterModel, threshold: float | None = None) -> None:
        stored = model.metadata
        self.model, self.threshold = model, threshold_of(stored, threshold)
        self.words: list[str] = json.loads(stored["words"])
        self.sample_rate, self.hop = int(stored["sample_rate"]), int(stored["hop_samples"])
        self.step_s, self.lead_s = float(stored["step_s"]), float(stored["lead_s"])
        self.modules: list[str] = json.loads(stored.get("modules", "[]"))
        self.module_macs = np.array(json.loads(stored.get("module_macs", "[]")), np.float64)
        self.encoder_macs = int(stored.get("encoder_macs", "0"))
        """Per hop, what no gate can leave out included."""
        self.reset()

    @property
    def hop_s(self) -> float:
        return self.hop / self.sample_rate

    @property
    def seconds(self) -> float:
        """Of the stream that were heard."""
        return self.hops_heard * self.hop_s

    def reset(self) -> None:
        """Begin a new stream."""
        self.hops_heard = 0
        self._state = self.model.initial()
        self._suppressor = Suppressor()
        self._rest = Rest(self.hop)

    def push(self, samples: NDArray) -> list[WordEvent]:
        """Words of the next samples (n,): float in [-1, 1], or int16. Times count from the start of the stream."""
        return [event for _, events in self.hops(samples) for event in events]

    def hops(self, samples: NDArray) -> Iterator[tuple[Steps, list[WordEvent]]]:
        """As ``push``, hop by hop, with what the model said; its times count from the start of the stream too."""
        audio = self._rest.whole(samples)
        for start in range(0, len(audio), self.hop):
            yield self._hear(audio[start : start + self.hop])

    def _hear(self, audio: NDArray[np.float32]) -> tuple[Steps, list[WordEvent]]:
        steps = self.model.step(audio, self._state)
        began_s, self._state = self.hops_heard * self.hop_s, steps.state
        self.hops_heard += 1
        begin_s, end_s = began_s + np.asarray(steps.begin_s, np.float64), began_s + np.asarray(steps.end_s, np.float64)
        given = proposals(steps.score, steps.word, begin_s, end_s)
        horizon = self.hops_heard * self.hop_s - self.lead_s - _HAIR_S  # no later step sees anything before it
        kept = self._suppressor.push(given.at(np.flatnonzero(candidates(given, self.threshold))), horizon)
        return steps._replace(begin_s=begin_s, end_s=end_s), kept.events()

    def finish(self, silence: bool = True) -> list[WordEvent]:
        """What the end of a stream settles. ``silence`` follows, as a device would go on hearing: the last word comes
        to the middle of what a step sees, as all others did."""
        pad = -len(self._rest) % self.hop if len(self._rest) else 0
        pad += -(-round(self.lead_s * self.sample_rate) // self.hop) * self.hop if silence else 0
        return self.push(np.zeros(pad, np.float32)) + self._suppressor.finish().events()

    def skipped(self, gates: NDArray) -> float:
        """Share of the encoder's multiply-accumulates that gates (hops, modules) left out; nan without a hop."""
        if not len(gates):
            return float("nan")
        return float((1 - gates.mean(0)) @ self.module_macs / self.encoder_macs)


@dataclass(frozen=True)
class Spotting:
    """A recording and what a spotter heard in it."""

    file: str
    seconds: float
    threshold: float
    words: list[tuple[str, WordEvent]]
    """In the order of time; seconds count from the recording's first sample and stay inside."""
    gates: NDArray[np.float32] | None
    """(hops, modules) of the hops that hold the recording; None without gates."""
    skipped: float | None
    """Share of the encoder's multiply-accumulates over these hops."""

    def to_dict(self) -> dict[str, Any]:
        words = [
            {"word": name, "begin_s": round(e.begin_s, 4), "end_s": round(e.end_s, 4), "score": e.score}
            for name, e in self.words
        ]
        about = {"file": self.file, "seconds": round(self.seconds, 4), "threshold": self.threshold, "words": words}
        return about if self.gates is None else {**about, "skipped": self.skipped}


def spot(spotter: StreamingSpotter, audio: NDArray[np.float32], file: str = "") -> Spotting:
    """All words of a recording (S,) at the model's rate, heard from a state that has heard nothing."""
    spotter.reset()
    seconds = len(audio) / spotter.sample_rate
    hops = -(-len(audio) // spotter.hop)
    heard = list(spotter.hops(np.pad(audio, (0, hops * spotter.hop - len(audio)))))
    events = [event for _, found in heard for event in found] + spotter.finish()
    inside = [replace(e, begin_s=max(0.0, e.begin_s), end_s=min(e.end_s, seconds)) for e in events]
    words = [(spotter.words[e.word], e) for e in sorted(inside, key=lambda e: e.begin_s) if e.end_s > e.begin_s]
    rows = [steps.gates for steps, _ in heard if steps.gates is not None]
    gates = np.concatenate(rows) if rows else None
    skipped = None if gates is None else spotter.skipped(gates)
    return Spotting(file, seconds, spotter.threshold, words, gates, skipped)
