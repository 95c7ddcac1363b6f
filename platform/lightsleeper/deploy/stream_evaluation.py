"""A wake-word detector over streams, in torch or as exported file: rejects, false alarms an hour, times.

The scores are those that `StreamingDetector` decides by, and the metric is the one of a run's own test: a run that is
evaluated on its own test streams gives the numbers of its record.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lightsleeper.deploy.detector import StreamModel
from lightsleeper.errors import UserError
from lightsleeper.metrics.detection import FRRAtFalseAlarms
from lightsleeper.models.family import Batch

DEFAULTS = {"fa_per_hour": 0.5, "smoothing_frames": 1, "refractory_s": 1.0, "tolerance_s": 0.5}


def metric_of(metadata: Mapping[str, str]) -> FRRAtFalseAlarms:
    """The metric with what a model says of itself; what it does not say is the metric's default."""
    values = {name: float(metadata.get(name, default)) for name, default in DEFAULTS.items()}
    frame_s = int(metadata["hop_samples"]) / int(metadata["sample_rate"])
    return FRRAtFalseAlarms(
        values["fa_per_hour"],
        frame_s,
        int(values["smoothing_frames"]),
        values["refractory_s"],
        values["tolerance_s"],
    )


def follow(model: StreamModel, chunks: Iterable[Batch], metric: FRRAtFalseAlarms) -> list[int]:
    """Score the chunks of streams (`data.streams.StreamChunks`) into ``metric``; returns the numbers of the streams.

    Raises UserError for data that are no streams, and for a graph of a fixed length that does not fit the chunks.
    """
    hop = int(model.metadata["hop_samples"])
    step = None if model.hops is None else model.hops * hop
    state: Any = None
    streams: list[int] = []
    for chunk in chunks:
        if not isinstance(chunk, dict) or "events" not in chunk:
            raise UserError("a wake-word detector is judged on streams, and these data hold none: expected WakeWords.")
        number = int(chunk["stream"])
        if chunk["first"]:
            state = model.initial()
            metric.add_stream(number, chunk["events"])
            streams.append(number)
        audio = chunk["audio"][0].cpu().numpy()
        frame = round(float(chunk["start_s"]) * int(model.metadata["sample_rate"]) / hop)
        whole = len(audio) // (step or hop) * (step or hop)  # what is left of a stream shorter than that is not scored
        for at in range(0, whole, step or max(1, whole)):
            scores, back, state = model.step(audio[at : at + (step or whole)], state)
            starts = None if back is None else torch.from_numpy(back)
            metric.update(torch.from_numpy(scores), number, frame + at // hop, starts)
    if not streams:
        raise UserError("nothing was scored: the data hold no stream.")
    return streams
