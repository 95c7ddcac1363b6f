"""Active speakers in a stream of pictures: faces appear and leave, each has a state of its own in the model.

The model is an exported graph or a torch model. One that streams takes a frame of all faces a call and tells the score
of the frame ``delay`` frames before; when a face has left, empty steps bring out what still waited. One that does not
judges each track as a whole when it has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.hops import threshold_of
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.errors import UserError

Faces = NDArray[np.uint8]
Numbers = NDArray[np.float32]
MFCC_PER_FRAME, COEFFICIENTS = 4, 13
_THRESHOLD = 0.5  # of a model that was exported without one


class Step(NamedTuple):
    """What a frame of N faces gives."""

    score: Numbers
    """(N,) of the frame ``delay`` steps before."""
    ready: Numbers
    """(N,) 1 where there is such a frame."""
    state: Any


class SpeakerModel(Protocol):
    """A model of active speakers."""

    pixels: int
    """Width and height of a face."""
    threshold: float
    streams: bool
    delay: int
    """Frames between a frame and its score; 0 where it does not stream."""

    def initial(self) -> Any:
        """The state of one face (1, S)."""

    def step(self, faces: Faces, mfcc: Numbers, present: Numbers, state: Any) -> Step:
        """The next frame of N faces (N, E, E), sound (4, 13), who is there (N,), states (N, S)."""

    def judge(self, faces: Faces, mfcc: Numbers) -> Numbers:
        """Scores (T,) of a whole track (T, E, E) with sound (4 T, 13)."""


def is_graph(inputs: Mapping[str, object], outputs: list[str]) -> bool:
    """Whether an exported graph judges faces."""
    return {"faces", "mfcc"} <= inputs.keys() and "score" in outputs


class OnnxSpeakers:
    """An exported model: see `models.active_speaker_graphs` for inputs and outputs.

    Raises UserError when the file is missing, no model, or judges no faces.
    """

    def __init__(self, path: str | Path, threads: int = 1, threshold: float | None = None) -> None:
        self.graph = OnnxGraph(path, threads)
        if not is_graph(self.graph.inputs, self.graph.outputs):
            raise UserError(f"{path} judges no faces: expected inputs faces and mfcc and an output score.")
        facts = self.graph.metadata
        self.streams = "state" in self.graph.inputs
        needed = ["pixels", *(["delay", "state_size"] if self.streams else [])]
        if missing := [key for key in needed if key not in facts]:
            raise UserError(f"{path} does not say its {missing[0]}: export it again.")
        self.pixels, self.delay = int(facts["pixels"]), int(facts.get("delay", 0))
        self.threshold = _threshold(facts, threshold)
        self._state_size = int(facts.get("state_size", 0))

    def initial(self) -> Numbers:
        return np.zeros((1, self._state_size), np.float32)

    def step(self, faces: Faces, mfcc: Numbers, present: Numbers, state: Any) -> Step:
        found = self.graph.run(
            {"faces": faces[:, None], "mfcc": _for_all(mfcc, faces), "present": present, "state": state}
        )
        return Step(found["score"], found["ready"], found["next_state"])

    def judge(self, faces: Faces, mfcc: Numbers) -> Numbers:
        return self.graph.run({"faces": faces[None], "mfcc": mfcc[None]})["score"][0]


class TorchSpeakers:
    """An `ActiveSpeaker` in torch."""

    def __init__(self, model: Any, threshold: float | None = None) -> None:
        self.model = model.eval()
        self.streams = bool(model.net.streams)
        self.delay = int(model.net.delay) if self.streams else 0
        self.pixels = int(model.net.encoders.size.pixels)
        self.threshold = _threshold({"threshold": repr(float(model.threshold))}, threshold)

    def initial(self) -> Numbers:
        return self.model.net.initial(1).numpy()

    def step(self, faces: Faces, mfcc: Numbers, present: Numbers, state: Any) -> Step:
        import torch

        sound = torch.from_numpy(_for_all(mfcc, faces))
        with torch.no_grad():
            found = self.model.net.step(
                torch.from_numpy(faces)[:, None], sound, torch.from_numpy(present), torch.from_numpy(state)
            )
        return Step(*(value.numpy() for value in found))

    def judge(self, faces: Faces, mfcc: Numbers) -> Numbers:
        import torch

        with torch.no_grad():
            batch = {"faces": torch.from_numpy(faces)[None], "mfcc": torch.from_numpy(mfcc)[None]}
            return self.model(batch)[0].numpy()


class Judged(NamedTuple):
    """The score of a face in a frame."""

    name: str
    frame: int
    """Of the stream."""
    score: float


@dataclass
class _Person:
    """A face that is there, or has just left."""

    state: Any
    waiting: list[int] = field(default_factory=list)
    """Frames of the stream whose score has not come."""
    faces: list[Faces] = field(default_factory=list)
    mfcc: list[Numbers] = field(default_factory=list)
    """What was seen and heard, kept only for a model that judges whole tracks."""


class SpeakerStream:
    """Feed frame after frame; get scores as they become final. A face that is missing in a frame has left for good.

    Example::

        stream = SpeakerStream(OnnxSpeakers("export/model.onnx"))
        for crops, mfcc in camera:  # {"Ann": (112, 112), "Bob": (112, 112)}, (4, 13)
            for name, frame, score in stream.push(crops, mfcc):
                print(name, frame / 25, score > stream.model.threshold)
        rest = stream.finish()
    """

    def __init__(self, model: SpeakerModel) -> None:
        self.model, self.frame = model, 0
        self._people: dict[str, _Person] = {}

    @property
    def state_bytes(self) -> int:
        """Kept for all faces that are there."""
        return sum(person.state.nbytes for person in self._people.values())

    def push(self, crops: Mapping[str, Faces], mfcc: Numbers) -> list[Judged]:
        """The next frame: the face of each name (E, E), and the sound beside it (4, 13)."""
        found = [judged for name in list(self._people) if name not in crops for judged in self._leave(name)]
        for name in crops:
            if name not in self._people:
                self._people[name] = _Person(self.model.initial())
        if crops:
            names = list(crops)
            found += self._see(names, np.stack([crops[name] for name in names]), mfcc)
        self.frame += 1
        return found

    def finish(self) -> list[Judged]:
        """The scores that still wait; everybody leaves."""
        return [judged for name in list(self._people) for judged in self._leave(name)]

    def _see(self, names: list[str], faces: Faces, mfcc: Numbers) -> list[Judged]:
        people = [self._people[name] for name in names]
        for person, face in zip(people, faces, strict=True):
            person.waiting.append(self.frame)
            if not self.model.streams:
                person.faces.append(face)
                person.mfcc.append(mfcc)
        return self._step(names, faces, mfcc, 1.0) if self.model.streams else []

    def _leave(self, name: str) -> list[Judged]:
        person = self._people[name]
        if self.model.streams:
            found = []
            empty = np.zeros((1, self.model.pixels, self.model.pixels), np.uint8)
            silence = np.zeros((MFCC_PER_FRAME, COEFFICIENTS), np.float32)
            for _ in range(self.model.delay):
                found += self._step([name], empty, silence, 0.0)
        else:
            scores = self.model.judge(np.stack(person.faces), np.concatenate(person.mfcc))
            found = [Judged(name, frame, float(score)) for frame, score in zip(person.waiting, scores, strict=True)]
        del self._people[name]
        return found

    def _step(self, names: list[str], faces: Faces, mfcc: Numbers, present: float) -> list[Judged]:
        people = [self._people[name] for name in names]
        there = np.full(len(names), present, np.float32)
        step = self.model.step(faces, mfcc, there, np.concatenate([person.state for person in people]))
        found = []
        for row, (name, person) in enumerate(zip(names, people, strict=True)):
            person.state = step.state[row : row + 1]
            if step.ready[row] > 0.5 and person.waiting:
                found.append(Judged(name, person.waiting.pop(0), float(step.score[row])))
        return found


def _for_all(mfcc: Numbers, faces: Faces) -> Numbers:
    """Every face hears the same (N, 4, 13)."""
    return np.repeat(mfcc[None], len(faces), 0)


def _threshold(facts: Mapping[str, str], given: float | None) -> float:
    try:
        return threshold_of(facts, given)
    except UserError:
        return _THRESHOLD
