"""Wake-word detectors of a few numbers, as ONNX file and as finished run; recordings that they fire on."""

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import soundfile
import torch

HOP = 320
RATE = 16_000
RUN = "20260101-000000-abcd"


class Frames(NamedTuple):
    score: torch.Tensor
    start_s: torch.Tensor | None
    state: torch.Tensor


class Louder(torch.nn.Module):
    """Scores a hop by its mean less the mean of the hop before; says that everything began 0.3 s ago."""

    hop_samples = HOP

    def initial(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, 1)

    def stream(self, audio: torch.Tensor, state: torch.Tensor) -> Frames:
        level = audio.view(1, -1, HOP).mean(2)
        score = level - torch.cat([state, level[:, :-1]], 1)
        return Frames(score, torch.full_like(score, 0.3), level[:, -1:])


def write_graph(path: Path, metadata: dict[str, str], hops: int | None = None, outputs: str = "next_state") -> Path:
    """`Louder` as an ONNX file; ``hops`` fixes its length."""
    samples = "N" if hops is None else str(hops * HOP)
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        louder (float[1, {samples}] audio, float[1, 1] state) => (float[1, M] score, float[1, M] offset, float[1, 1] {outputs})
        <int64[3] shape = {{1, -1, {HOP}}}, int64[1] axis = {{2}}, int64[1] zero = {{0}}, int64[1] last = {{-1}},
         int64[1] end = {{9223372036854775807}}, int64[1] time = {{1}}, float ago = {{0.3}}>
        {{
            hops = Reshape(audio, shape)
            level = ReduceMean<keepdims = 0>(hops, axis)
            before = Slice(level, zero, last, time)
            past = Concat<axis = 1>(state, before)
            score = Sub(level, past)
            none = Sub(level, level)
            offset = Add(none, ago)
            {outputs} = Slice(level, last, end, time)
        }}
    """)  # noqa: E501
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


META = {"sample_rate": "16000", "hop_samples": str(HOP), "threshold": "0.4", "smoothing_frames": "1",
        "refractory_s": "0.1", "state_size": "1"}  # fmt: skip


def steps(count: int = 60, seed: int = 0) -> np.ndarray:
    """Audio whose level jumps from hop to hop."""
    return np.repeat(np.random.default_rng(seed).integers(0, 3, count) / 2, HOP).astype(np.float32)


LOUD = META | {"refractory_s": "1.0", "target": "0.5 false alarms an hour on validation streams"}


def jumps(path: Path, at_s: tuple[float, ...], seconds: float = 4.0, rate: int = RATE) -> Path:
    """A recording that becomes loud for 0.2 s at each time: what `Louder` fires on."""
    audio = np.zeros(round(seconds * rate), np.float32)
    for time_s in at_s:
        audio[round(time_s * rate) : round((time_s + 0.2) * rate)] = 0.9
    soundfile.write(path, audio, rate)
    return path


@cache
def detector_runs() -> Path:
    """A runs folder with one finished run of an untrained HEiMDaL, `wake/20260101-000000-abcd`; made once, read only.

    Its recipe takes the streams of `models.wake_streams.Tones`, its threshold is one that their scores reach.
    """
    from lightsleeper.deploy.finalize import save_model
    from lightsleeper.run_folder import RECORD
    from lightsleeper.tracking.record import Record
    from models.wake_streams import make, stream

    _KEPT.append(tempfile.TemporaryDirectory())
    root = Path(_KEPT[-1].name)
    folder = root / "wake" / RUN
    model = make("heimdal", fa_per_hour=60.0)
    with torch.no_grad():
        audio = torch.cat([chunk["audio"] for chunk in stream(0, 20)], 1)
        model.threshold.fill_(float(model(audio).quantile(0.99)))
    save_model(model, folder / "export", {})
    record = Record(folder.name, "wake", "HEiMDaL", 0, "g", "h", {}, {}, status="finished")
    (folder / RECORD).write_text(record.to_json())
    (folder / "recipe.yaml").write_text("data: {class_path: models.wake_streams.Tones}\n")
    return root


_KEPT: list[tempfile.TemporaryDirectory] = []
