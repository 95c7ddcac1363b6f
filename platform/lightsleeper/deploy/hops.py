"""What streaming runners share: exported graphs that keep a state, and samples that wait until they fill a hop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.errors import UserError

_PER_STEP = np.float32(1 / 32768)  # full scale is 1


class StreamGraph:
    """An exported graph with inputs ``audio`` (1, n hops) and ``state`` (1, S), all zeros at first.

    Args:
        path: of the file.
        threads: of ONNX Runtime.
        kind: what the graph should be, for messages.
        outputs: that it has to have.
        needed: metadata that it has to have.

    Raises:
        UserError: the file is missing, no model, of another kind, or takes features.
    """

    def __init__(
        self, path: str | Path, threads: int, kind: str, outputs: Sequence[str], needed: Sequence[str]
    ) -> None:
        self.graph = OnnxGraph(path, threads)
        self.metadata: dict[str, str] = self.graph.metadata
        if "features" in self.graph.inputs:
            raise UserError(f"{path} takes features of a front end outside of it; the run it came from takes audio.")
        if not streams(self.graph.inputs, self.graph.outputs, outputs):
            raise UserError(
                f"{path} is no {kind}: expected inputs audio, state and outputs {', '.join(outputs)}; it has "
                f"{', '.join(self.graph.inputs)} and {', '.join(self.graph.outputs)}."
            )
        if missing := [key for key in needed if key not in self.metadata]:
            raise UserError(f"{path} does not say its {missing[0]}: export it again.")
        samples = self.graph.inputs["audio"][1]
        self.hops: int | None = None if samples is None else samples // int(self.metadata["hop_samples"])
        """That one call takes, exactly; None: any number."""
        self._size = self.graph.inputs["state"][1] or int(self.metadata["state_size"])

    def initial(self) -> NDArray[np.float32]:
        return np.zeros((1, self._size), np.float32)

    def state_bytes(self) -> int:
        return 4 * self._size


def streams(inputs: Mapping[str, object], found: Sequence[str], outputs: Sequence[str]) -> bool:
    """Whether a graph with these ``inputs``, that ``found`` these outputs, keeps a state and gives ``outputs``."""
    return {"audio", "state"} <= inputs.keys() and set(outputs) <= set(found)


def threshold_of(metadata: Mapping[str, str], given: float | None) -> float:
    """The ``given`` threshold, or the one stored with the model. Raises UserError where there is neither."""
    threshold = float(metadata.get("threshold", "nan")) if given is None else given
    if given is None and np.isnan(threshold):
        raise UserError("the model was exported without a threshold: give one.")
    return threshold


class Rest:
    """Samples of one channel that wait for more, fewer than ``unit``."""

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.samples: NDArray[np.float32] = np.zeros(0, np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def whole(self, samples: NDArray) -> NDArray[np.float32]:
        """What waited, and ``samples`` (n,), float in [-1, 1] or int16, as far as they fill units."""
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"samples of one channel (n,) were expected, got {samples.shape}")
        waited = len(self.samples)
        audio = np.empty(waited + len(samples), np.float32)
        audio[:waited] = self.samples
        if samples.dtype == np.int16:
            np.multiply(samples, _PER_STEP, out=audio[waited:])
        else:
            audio[waited:] = samples
        end = len(audio) // self.unit * self.unit
        self.samples = audio[end:].copy()  # a view would hold the whole call's samples
        return audio[:end]
