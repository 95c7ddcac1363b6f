"""A word spotter over streams, in torch or as exported file: found words, false alarms, places, skipped computation.

The metric is the one of a run's own test: a run that is evaluated on its own test streams gives the numbers of its
record.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from lightsleeper.deploy.spotting import SpotterModel
from lightsleeper.errors import UserError
from lightsleeper.metrics.skipping import SkippedMACs
from lightsleeper.metrics.words import WordDetection
from lightsleeper.models.family import Batch
from lightsleeper.models.spotter_judging import whole_slides


def metrics_of(metadata: Mapping[str, str], threshold: float) -> tuple[WordDetection, SkippedMACs | None]:
    """What judges a model that says this of itself; the second one where it has gates."""
    macs = tuple(json.loads(metadata.get("module_macs", "[]")))
    skips = SkippedMACs(macs, int(metadata["encoder_macs"]) - sum(macs)) if macs else None
    return WordDetection(json.loads(metadata["words"]), threshold), skips


def follow(model: SpotterModel, chunks: Iterable[Batch], metric: WordDetection, skips: SkippedMACs | None) -> None:
    """Hear the chunks of streams (`data.streams.StreamChunks`). Raises UserError for data that are no such streams."""
    hop, rate = int(model.metadata["hop_samples"]), int(model.metadata["sample_rate"])
    state: Any = None
    for chunk in chunks:
        if not isinstance(chunk, dict) or "content" not in chunk:
            raise UserError("a word spotter is judged on streams of words, and these data hold none.")
        stream, content, start_s = int(chunk["stream"]), str(chunk["content"]), float(chunk["start_s"])
        if chunk["first"]:
            state = model.initial()
            metric.add_stream(stream, chunk["events"], float(chunk["seconds"]), content)
        audio = chunk["audio"][0].cpu().numpy()
        if not chunk["last"]:
            whole_slides(len(audio), 1000 * hop // rate)
        audio = np.pad(audio, (0, -len(audio) % hop))
        first = round(start_s * rate / hop)
        size = hop * model.hops if model.hops is not None else max(hop, len(audio))
        for at in range(0, len(audio), size):
            steps = model.step(audio[at : at + size], state)
            state, number, begins_s = steps.state, first + at // hop, start_s + at / rate
            count = len(steps.score) // (size // hop)  # steps of a hop
            begin_s, end_s = (begins_s + np.asarray(time, np.float64) for time in (steps.begin_s, steps.end_s))
            metric.update(stream, number * count, steps.score, steps.word, begin_s, end_s)
            if skips is not None and steps.gates is not None:
                skips.update(stream, content, number, torch.from_numpy(steps.gates))
    if state is None:
        raise UserError("nothing was heard: the data hold no stream.")
