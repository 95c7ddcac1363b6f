"""int8 files of tiny wake-word models, made once for all tests."""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from lightsleeper.deploy.export import export
from lightsleeper.deploy.small import Streams
from lightsleeper.models.wakeword import WakeWord
from lightsleeper_callbacks.foldable import folds, put
from models.wake_streams import lively, make, stream


def streams(test: int = 2, seconds: int = 20) -> Streams:
    """20 s with keywords and 20 s without to calibrate on, as many to be judged by."""
    return Streams(lambda: stream(0, 20) + stream(1, 20), lambda: {"": stream(test, seconds) + stream(3, 20)})


@cache
def exported(name: str, *formats: str, **arguments: Any) -> tuple[Path, list[dict[str, Any]]]:
    folder = Path(mkdtemp(prefix="small-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, export(folded(name, **arguments), folder, formats, 2, streams())


def folded(name: str, **arguments: Any) -> WakeWord:
    model = make(name, **arguments)
    model.threshold.fill_(0.5)
    put(model, folds(model))
    return lively(model, 20)


def logits(score: np.ndarray) -> np.ndarray:
    return np.log(score / (1 - score))
