"""Files that take features instead of audio, opened to hear audio: the front end is that of the model beside them."""

from pathlib import Path

from lightsleeper.deploy.detector import StreamModel
from lightsleeper.deploy.finalize import load_model
from lightsleeper.deploy.litert import SUFFIX, LiteRTNetwork
from lightsleeper.deploy.small import Fronted, OnnxNetwork, split
from lightsleeper.errors import UserError
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.run_folder import ARCHITECTURE


def open_fronted(path: Path, threshold: float = float("nan")) -> StreamModel:
    """An ONNX file with the input ``features`` or a ``.tflite`` file, behind the front end of ``model.json`` beside it.

    ``threshold``: of a ``.tflite`` file, which has no metadata; nan: none. Raises UserError without ``model.json``, and
    where the file is damaged or a package is missing.
    """
    if not (path.parent / ARCHITECTURE).is_file():
        raise UserError(f"{path} takes features, not audio: its front end is made from {ARCHITECTURE}, not beside it.")
    model = load_model(path.parent)
    if not isinstance(model, WakeWord):
        raise UserError(f"{path.parent / ARCHITECTURE} is a {type(model).__name__}, no wake-word detector.")
    front, _ = split(model)
    if path.suffix != SUFFIX:
        network = OnnxNetwork(path)
        return Fronted(front, network, network.graph.metadata)
    graph = model.export_spec()[0]
    metadata = {**graph.metadata, "threshold": repr(threshold)}
    return Fronted(front, _litert(path, len(graph.outputs) - 1), metadata)


def _litert(path: Path, outputs: int) -> LiteRTNetwork:
    try:
        return LiteRTNetwork(path, outputs)
    except ImportError as error:
        raise UserError(f"{path} needs the package ai-edge-litert: see docs/small_devices.md.") from error
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no file of format litert_int8: {' '.join(str(error).split())[:200]}") from error
