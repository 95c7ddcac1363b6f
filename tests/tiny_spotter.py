"""Word spotters: of a few numbers as ONNX file, untrained as a finished run; recordings the first finds words in."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import soundfile
import torch

RATE, HOP, STEP, STEPS = 16_000, 3840, 640, 6
HOP_S, STEP_S, LEAD_S, LENGTH_S = 0.24, 0.04, 0.2, 0.3
WORDS = ["high", "low"]
RUN = "20260101-000000-abcd"
META = {
    "family": "WordSpotter", "sample_rate": str(RATE), "hop_samples": str(HOP), "window_samples": str(5 * HOP),
    "step_s": str(STEP_S), "lead_s": str(LEAD_S), "receptive_s": "0.3", "words": json.dumps(WORDS), "threshold": "0.4",
    "state_size": "1", "modules": json.dumps(["1.feed_forward", "1.attention", "2.convolution"]),
    "module_macs": "[100, 200, 100]", "encoder_macs": "500",
}  # fmt: skip


def write_spotter(path: Path, gated: bool = True, **metadata: str) -> Path:
    """A step of 40 ms whose mean is above 0 is `high`, below it `low`, as sure as it is far from 0; it says that the
    word began 0.2 s before the step and is 0.3 s long. Loud hops run all of its modules, others the first alone."""
    begins = ", ".join(str(round(step * STEP_S - LEAD_S, 2)) for step in range(STEPS))
    gates = ", float[1, 3] gates" if gated else ""
    nodes = """
            loudest = ReduceMax<keepdims = 1>(score, axis)
            loud = Greater(loudest, bar)
            ran = Cast<to = 1>(loud)
            always = Add(zeros, one)
            gates = Concat<axis = 1>(always, ran, ran)
    """  # noqa: E501
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        spotter (float[1, {HOP}] audio, float[1, 1] state)
            => (float[1, {STEPS}] score, int64[1, {STEPS}] word, float[1, {STEPS}] begin, float[1, {STEPS}] end,
                float[1, 1] next_state{gates})
        <int64[3] shape = {{1, {STEPS}, {STEP}}}, int64[1] axis = {{1}}, int64[1] time = {{2}}, float zero = {{0}},
         float[1, 1] zeros = {{0}}, float one = {{1}}, float bar = {{0.3}}, float length = {{{LENGTH_S}}},
         float[1, {STEPS}] begins = {{{begins}}}>
        {{
            steps = Reshape(audio, shape)
            level = ReduceMean<keepdims = 0>(steps, time)
            score = Abs(level)
            below = Less(level, zero)
            word = Cast<to = 7>(below)
            silence = Mul(level, zero)
            begin = Add(silence, begins)
            end = Add(begin, length)
            next_state = Add(state, one)
            {nodes if gated else ""}
        }}
    """)
    onnx.helper.set_model_props(model, META | metadata)
    onnx.save(model, path)
    return path


def levels(*stretches: tuple[float, float], seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """Audio (S,): 0.1 s of each level from its time on, the last 40 ms louder: where the spotter is surest."""
    audio = np.zeros(round(seconds * rate), np.float32)
    for at_s, level in stretches:
        first = round(at_s * rate)
        audio[first : first + rate // 10] = level
    return audio


def recording(path: Path, *stretches: tuple[float, float], seconds: float = 2.0, rate: int = RATE) -> Path:
    soundfile.write(path, levels(*stretches, seconds=seconds, rate=rate), rate)
    return path


@cache
def spotter_runs() -> Path:
    """A runs folder with one finished run of an untrained gated WordSpotter, `spot/20260101-000000-abcd`; read only.

    Its recipe takes the streams of `models.word_streams.Tones`, its threshold is one that their scores reach.
    """
    from lightsleeper.deploy.finalize import save_model
    from lightsleeper.run_folder import EXPORT, RECIPE, RECORD
    from lightsleeper.tracking.record import Record
    from models.word_streams import make, stream

    _KEPT.append(tempfile.TemporaryDirectory())
    root = Path(_KEPT[-1].name)
    folder = root / "spot" / RUN
    model = make(gated=True)
    with torch.no_grad():
        score = model(torch.cat([chunk["audio"] for chunk in stream(0, 24.0, "speech", 0)], 1)).score
        model.threshold.fill_(float(score[score > 0].quantile(0.5)))
    save_model(model, folder / EXPORT, {})
    record = Record(folder.name, "spot", "WordSpotter", 0, "g", "h", {}, {}, status="finished")
    (folder / RECORD).write_text(record.to_json())
    (folder / RECIPE).write_text("data: {class_path: models.word_streams.Tones}\n")
    return root


@cache
def exported() -> Path:
    """The ONNX file of that run; takes a while."""
    from lightsleeper.deploy.export import write_onnx
    from lightsleeper.deploy.finalize import load_model
    from lightsleeper.run_folder import EXPORT

    folder = spotter_runs() / "spot" / RUN / EXPORT
    write_onnx(load_model(folder).export_spec()[0], folder / "model.onnx")
    return folder / "model.onnx"


_KEPT: list[tempfile.TemporaryDirectory] = []
