"""A LiteRT file as C++ source: an aligned array, and beside it in a header everything a program needs to feed it."""

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightsleeper.files import replacing, sha256

ALIGNMENT = 16  # bytes: what LiteRT Micro asks of a model and of its arena
PER_LINE = 20


def write_c_array(path: Path, device: Mapping[str, Any], metadata: Mapping[str, str]) -> tuple[Path, Path]:
    """Write `NAME.h` and `NAME.cc` beside ``path``; returns both.

    ``device``: the entry of the record (input, states, arena_bytes); ``metadata``: what the graph says about itself.
    """
    header, source = path.with_suffix(".h"), path.with_suffix(".cc")
    with replacing(header) as temporary:
        temporary.write_text(_header(path, device, metadata), encoding="ascii")
    with replacing(source) as temporary:
        temporary.write_text(_source(path, header.name), encoding="ascii")
    return header, source


def _header(path: Path, device: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    name = _identifier(path.stem)
    guard = f"{name.upper()}_H_"
    states = device["states"]
    features = device["input"]
    lines = [
        f"// {path.name}, sha256 {sha256(path)}. Written by lightsleeper {version('lightsleeper')}; do not edit.",
        f"// Front end: {device['frontend']}; {metadata['frontend'].rpartition(',')[0]}.",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        f"extern const unsigned char {name}[];  // aligned to {ALIGNMENT} bytes",
        f"extern const std::size_t {name}_size;",
        "",
        f"namespace {name}_facts {{",
        f"constexpr int kSampleRate = {metadata['sample_rate']};",
        f"constexpr int kHopSamples = {metadata['hop_samples']};  // audio of one call",
        f"constexpr int kMels = {features['shape'][1]}, kFrames = {features['shape'][2]};  // input 0 holds both axes",
        f"constexpr float kInputScale = {_float(features['scale'])};  // int8 = round(feature / scale) + zero point",
        f"constexpr int kInputZeroPoint = {features['zero_point']};",
        _threshold(float(metadata["threshold"]), metadata["target"]),
        f"constexpr int kSmoothingFrames = {metadata['smoothing_frames']};  // scores averaged before the threshold",
        f"constexpr float kRefractorySeconds = {_float(float(metadata['refractory_s']))};",
        f"constexpr int kOutputs = {device['outputs']};  // float: score, then seconds back to the start",
        "// States: input i + 1 gets what output kOutputs + i gave, kStateZeroPoint[i] before anything was heard.",
        "// Copy all of them out of the arena before writing an input: inputs and outputs may share memory.",
        f"constexpr int kStates = {len(states)};",
        f"constexpr int kStateBytes[] = {{{_list(state['bytes'] for state in states)}}};",
        f"constexpr int kStateZeroPoint[] = {{{_list(state['zero_point'] for state in states)}}};",
        f"constexpr int kAllStateBytes = {device['state_bytes']};",
    ]
    if device.get("arena_bytes"):
        lines.append(f"constexpr std::size_t kArenaBytes = {device['arena_bytes']};  // {device['arena']}")
    return "\n".join([*lines, f"}}  // namespace {name}_facts", f"#endif  // {guard}", ""])


def _threshold(value: float, target: str) -> str:
    if math.isfinite(value):
        return f"constexpr float kThreshold = {_float(value)};  // {target}"
    return "// There is no kThreshold: the validation streams gave none."


def _source(path: Path, header: str) -> str:
    content, name = path.read_bytes(), _identifier(path.stem)
    rows = (content[at : at + PER_LINE] for at in range(0, len(content), PER_LINE))
    body = "\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in row) + "," for row in rows)
    return (
        f'#include "{header}"\n\n'
        f"alignas({ALIGNMENT}) const unsigned char {name}[] = {{\n{body}\n}};\n"
        f"const std::size_t {name}_size = {len(content)};\n"
    )


def _identifier(text: str) -> str:
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text)
    return name if name[:1].isalpha() else f"model_{name}"


def _float(value: float) -> str:
    """The literal of a float32: nine digits give it back exactly."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".en") else f"{text}.0f"


def _list(values: Any) -> str:
    return ", ".join(str(value) for value in values)
