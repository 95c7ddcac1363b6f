"""An always-on detector around an exported or a torch wake-word model: samples in, events out.

Between two calls it keeps the model's state, less than one hop of samples, and the decoder's few numbers: nothing grows
with time. Any division of the samples into calls gives the same events.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.hops import Rest, StreamGraph, threshold_of
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.metrics.events import Event, EventDecoder

OUTPUTS = ("score", "next_state")
Frames = tuple[NDArray[np.float32], NDArray[np.float32] | None, Any]
"""Scores (n,), seconds back to the keyword's start (n,) or None, next state."""
_MOST_SECONDS = 10.0  # given to a model at a time: an hour in one call needs no more memory than that


class StreamModel(Protocol):
    """A model that scores a stream hop by hop."""

    hops: int | None
    """Hops that one call takes, exactly; None: any number."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """``sample_rate``, ``hop_samples``, and where known ``threshold``, ``smoothing_frames``, ``refractory_s``."""

    def initial(self) -> Any: ...

    def step(self, audio: NDArray[np.float32], state: Any) -> Frames: ...

    def state_bytes(self) -> int: ...


class OnnxStream(StreamGraph):
    """An exported streaming model: inputs ``audio`` (1, n hops) and ``state`` (1, S), outputs ``score`` (1, n), perhaps
    ``offset`` (1, n) in seconds, and ``next_state``.

    Raises UserError when the file is missing, no model, or not a streaming one.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        super().__init__(path, threads, "streaming detector", OUTPUTS, ("sample_rate", "hop_samples"))
        self._tells_start = "offset" in self.graph.outputs

    def step(self, audio: NDArray[np.float32], state: Any) -> Frames:
        found = self.graph.run({"audio": audio[None], "state": state})
        return found["score"][0], found["offset"][0] if self._tells_start else None, found["next_state"]


def open_stream(path: Path, threads: int = 1, threshold: float = float("nan")) -> StreamModel:
    """An exported detector: ONNX, or LiteRT with a ``threshold`` of its own, nan: none.

    A file that takes features is put behind the front end of ``model.json`` beside it, which runs in torch: ``threads``
    are then torch's, of the whole process. Raises UserError as `OnnxStream` and `open_fronted`.
    """
    if path.suffix == ".onnx" and "features" not in OnnxGraph(path).inputs:
        return OnnxStream(path, threads)
    import torch

    from lightsleeper.deploy.without_front import open_fronted

    torch.set_num_threads(threads)
    return open_fronted(path, threshold)


class TorchStream:
    """A wake-word family in torch, through its ``stream`` and ``initial``.

    ``metadata``: what the exported file would say; the model's own attributes fill in sample rate and hop.
    """

    hops: int | None = None

    def __init__(self, model: Any, metadata: Mapping[str, str] | None = None) -> None:
        self.model = model.eval()
        rate = str(getattr(model, "sample_rate", 16_000))
        self.metadata: dict[str, str] = {"sample_rate": rate, "hop_samples": str(model.hop_samples), **(metadata or {})}

    def initial(self) -> Any:
        return self.model.initial(1)

    def step(self, audio: NDArray[np.float32], state: Any) -> Frames:
        import torch  # a second that an exported file does not need

        with torch.no_grad():
            frames = self.model.stream(torch.from_numpy(audio)[None], state)
        back = None if frames.start_s is None else frames.start_s[0].float().cpu().numpy()
        return frames.score[0].float().cpu().numpy(), back, frames.state

    def state_bytes(self) -> int:
        state = self.initial()
        return int(state.numel() * state.element_size())


class StreamingDetector:
    """Feed any number of samples; get the events that have become certain.

    Args:
        model: what scores the stream.
        threshold: None: the one stored with the model, calibrated on validation data.
        smoothing_frames: None: the model's, else 1.
        refractory_s: None: the model's, else 1 s.
        wait_s: see `EventDecoder`.

    Example::

        detector = StreamingDetector(OnnxStream("export/model.onnx"))
        for samples in microphone:
            for event in detector.push(samples):
                print(event.start_s, event.end_s, event.score)

    Raises:
        UserError: the model has no threshold and none was given.
    """

    def __init__(
        self,
        model: StreamModel,
        threshold: float | None = None,
        smoothing_frames: int | None = None,
        refractory_s: float | None = None,
        wait_s: float = 0.0,
    ) -> None:
        stored = model.metadata
        self.model = model
        self.sample_rate, self.hop = int(stored["sample_rate"]), int(stored["hop_samples"])

        def value(given: float | None, key: str, otherwise: float) -> float:
            return float(stored.get(key, otherwise)) if given is None else given

        self.decoder = EventDecoder(
            threshold_of(stored, threshold),
            self.hop / self.sample_rate,
            int(value(smoothing_frames, "smoothing_frames", 1)),
            value(refractory_s, "refractory_s", 1.0),
            wait_s,
        )
        most = max(1, int(_MOST_SECONDS * self.sample_rate) // self.hop)
        self._most = min(most, model.hops or most) * self.hop
        self._unit = self.hop * (model.hops or 1)  # a graph of fixed length takes only that
        self.reset()

    @classmethod
    def open(cls, path: str | Path, threads: int = 1, **how: Any) -> "StreamingDetector":
        """The detector of an exported file, see `open_stream`."""
        return cls(open_stream(Path(path), threads), **how)

    def reset(self) -> None:
        """Begin a new stream."""
        self._state = self.model.initial()
        self._decoded = self.decoder.initial()
        self._rest = Rest(self._unit)

    @property
    def seconds(self) -> float:
        """Of the stream that have been scored."""
        return self._decoded.frame * self.decoder.frame_s

    def push(self, samples: NDArray) -> list[Event]:
        """Events of the next samples (n,): float in [-1, 1], or int16. Times count from the start of the stream."""
        audio = self._rest.whole(samples)
        if 0 < len(audio) <= self._most:  # what a microphone gives: every call counts
            return self._decode(audio)[1]
        return [event for _, events in self._stretches(audio) for event in events]

    def frames(self, samples: NDArray) -> Iterator[tuple[NDArray[np.float32], list[Event]]]:
        """As ``push``, with the raw scores of each stretch, for a plot."""
        yield from self._stretches(self._rest.whole(samples))

    def _stretches(self, audio: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], list[Event]]]:
        for start in range(0, len(audio), self._most):
            yield self._decode(audio[start : start + self._most])

    def _decode(self, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[Event]]:
        scores, back, self._state = self.model.step(audio, self._state)
        events, self._decoded = self.decoder.decode(scores, self._decoded, back)
        return scores, events

    def finish(self) -> list[Event]:
        """What the end of a stream makes certain: its last samples, filled up with silence, and an event that waits."""
        events = self.push(np.zeros(-len(self._rest) % self._unit, np.float32)) if len(self._rest) else []
        return events + self.decoder.finish(self._decoded)

    def detect(self, chunks: Iterable[NDArray]) -> Iterator[Event]:
        """All events of a stream given in chunks, as they become certain."""
        for chunk in chunks:
            yield from self.push(chunk)
        yield from self.finish()

    def state_bytes(self) -> int:
        """Kept between two calls: the model's state, the rest of a hop, the decoder's numbers."""
        kept = self._unit - 1 + 2 * (self.decoder.smoothing_frames - 1)
        return self.model.state_bytes() + 4 * kept + 8 * 6
