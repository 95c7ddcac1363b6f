"""The file formats of a deliverable. Strings only: reading the table imports nothing.

A new format is a name and a row here, and its writer.
"""

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["onnx", "packed", "coreml", "transformers", "onnx_int8", "litert_int8"]


@dataclass(frozen=True)
class Format:
    text: str
    """For a user, behind the name."""
    writer: str
    """Dotted path of ``write(model, folder, job) -> artifacts``; formats of one writer are written in one call."""
    packages: tuple[str, ...] = ()
    """What it imports beyond the platform's own."""
    precision: str = "fp32"
    streams: bool = False
    """Whether it is calibrated and judged on streams of validation and test."""


_ONNX = ("onnx", "onnxscript", "onnxruntime")
_EXPORT, _SMALL = "lightsleeper.deploy.export", "lightsleeper.deploy.small"

FORMATS: dict[FormatName, Format] = {  # in the order of writing: the headline artifact is the first
    "onnx": Format("every graph of the model, one file each", f"{_EXPORT}.write_graphs", _ONNX),
    "packed": Format(
        "all weights in one file, clustered ones as tables and indices of a few bits",
        f"{_EXPORT}.write_packed",
        precision="palettized",
    ),
    "coreml": Format(
        "every graph as a zipped package, palettised", f"{_EXPORT}.write_coreml", ("coremltools",), "palettized"
    ),
    "transformers": Format("a folder for `from_pretrained`", f"{_EXPORT}.write_transformers", ("transformers",)),
    "onnx_int8": Format(
        "wake words quantised for small devices, judged on the test streams",
        f"{_SMALL}.write_small",
        _ONNX,
        "int8",
        streams=True,
    ),
    "litert_int8": Format(
        "the same through LiteRT, with a C array",
        f"{_SMALL}.write_small",
        ("litert_torch", "ai_edge_quantizer"),
        "int8",
        streams=True,
    ),
}
