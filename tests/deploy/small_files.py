"""int8 files of tiny wake-word models, made once for all tests."""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from lightsleeper.deploy.export import export
from lightsleeper.deploy.small import Streams
from lightsleeper.models.wakeword import WakeWord
from lightsleeper_callbacks.foldable import folds, put
from models.wake_streams import make, stream
from torch import Tensor, nn


def streams(test: int = 2, seconds: int = 20) -> Streams:
    """20 s with keywords and 20 s without to calibrate on, as many to be judged by."""
    return Streams(lambda: stream(0, 20) + stream(1, 20), lambda: {"": stream(test, seconds) + stream(3, 20)})


@cache
def exported(name: str, *formats: str, **arguments: Any) -> tuple[Path, list[dict[str, Any]]]:
    folder = Path(mkdtemp(prefix="small-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, export(folded(name, **arguments), folder, formats, 2, streams())


def folded(name: str, **arguments: Any) -> WakeWord:
    """With weights that let a signal through (each layer's outputs have a standard deviation of one): fresh ones give
    nearly the same score for all audio."""
    model = make(name, **arguments)
    model.threshold.fill_(0.5)
    put(model, folds(model))
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d))]
    hooks = [layer.register_forward_hook(_even) for layer in layers]
    with torch.no_grad():
        model(torch.cat([batch["audio"] for batch in stream(0, 20)], 1))
    for hook in hooks:
        hook.remove()
    return model


def _even(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    scale, mean = 1 / output.std(), output.mean()
    for name, value in layer.named_parameters():
        value -= mean if name == "bias" else 0
        value *= scale
    return (output - mean) * scale


def logits(score: np.ndarray) -> np.ndarray:
    return np.log(score / (1 - score))
