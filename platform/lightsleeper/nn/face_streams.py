"""Many faces of one video stream, frame by frame: they appear, are judged a few frames later, and leave.

All faces of a frame go through the network in one batch. The fusion's keys and values lie in rings: a step writes one
column and reads the others, nothing is moved. Faces share the place in the ring where the next column goes; a face that
has come later has fewer columns that are there. `SpeakerNet.step` does the same with a state that is passed in and out.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightsleeper.nn.light_asd import MFCC_PER_FRAME
from lightsleeper.nn.limited_attention import LimitedLayer, LimitedTransformer
from lightsleeper.nn.speaker_net import SpeakerNet


class Score(NamedTuple):
    """A decision: ``frame`` counts from the first one of this ``face``."""

    face: Hashable
    frame: int
    score: float


@dataclass
class _Face:
    name: Hashable
    given: int = 0
    judged: int = 0


class _Ring:
    """Keys, values, waiting inputs and marks of one layer, a row for each face."""

    def __init__(self, layer: LimitedLayer) -> None:
        self.layer, self.at = layer, 0
        self.keys, self.values, self.waiting, self.there = (
            layer.positions.new_zeros(0, *shape)
            for shape in (
                (layer.columns, layer.dim),
                (layer.columns, layer.dim),
                (int(layer.future or 0), layer.dim),
                (layer.columns,),
            )
        )
        self.turn = 0  # of the waiting inputs

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("keys", "values", "waiting", "there")}

    def push(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """`LimitedLayer.step` in place: the next frame (B, dim), to the one that is due and whether there is one."""
        layer = self.layer
        query, key, value = layer.inward(layer.attention_norm(x)).chunk(3, -1)
        self.keys[:, self.at], self.values[:, self.at], self.there[:, self.at] = key, value, present
        due = x
        if layer.future:
            due = self.waiting[:, self.turn].clone()  # the oldest: it arrived ``future`` steps ago
            self.waiting[:, self.turn] = x
            self.turn = (self.turn + 1) % layer.future
            query = layer.inward(layer.attention_norm(due))[:, : layer.dim]
        age = (self.at - torch.arange(layer.columns, device=x.device)) % layer.columns
        mixed = layer.attend(query, self.keys, self.values, layer.by_age(age), self.there)
        ready = self.there[:, (self.at - int(layer.future or 0)) % layer.columns]
        self.at = (self.at + 1) % layer.columns
        return layer.finish(due[:, None], mixed)[:, 0], ready


class FaceStreams:
    """The faces of one video stream.

    Args:
        net: What judges them, in eval mode.

    Raises ValueError for a network that does not stream.

    >>> streams = FaceStreams(net)
    >>> for faces, mfcc in frames:  # {name: (112, 112)}, (4, 13)
    ...     for name, frame, score in streams.step(faces, mfcc): ...
    """

    def __init__(self, net: SpeakerNet) -> None:
        self.net, self.delay = net, net.delay
        self.faces: list[_Face] = []
        self.encoders = net.initial(0)[:, : net.encoders.state_size]
        limited = isinstance(net.fusion, LimitedTransformer)
        self.rings = [_Ring(layer) for layer in net.fusion.layers] if limited else []  # type: ignore[union-attr]
        self.memory = None if limited else net.initial(0)[:, net.encoders.state_size :]

    @torch.inference_mode()
    def step(self, faces: Mapping[Hashable, Tensor], mfcc: Tensor | Mapping[Hashable, Tensor]) -> list[Score]:
        """The faces (112, 112) of the next video frame by name, and its MFCC (4, 13): one for all, or by name.

        A name that is new appears; one that is missing has left. Gives the decisions that are final, those of the faces
        that left first. Raises ValueError for a wrong shape.
        """
        found = [score for face in [*self.faces] if face.name not in faces for score in self.close(face.name)]
        for name in faces:
            if all(face.name != name for face in self.faces):
                self._open(name)
        if not self.faces:
            return found
        heard = [mfcc[face.name] if isinstance(mfcc, Mapping) else mfcc for face in self.faces]
        if heard[0].shape[0] != MFCC_PER_FRAME:
            raise ValueError(f"{MFCC_PER_FRAME} MFCC frames belong to a video frame; got {heard[0].shape[0]}")
        images = torch.stack([faces[face.name] for face in self.faces])[:, None]
        sound, seen, self.encoders = self.net.encoders.stream(images, torch.stack(heard), self.encoders)
        return found + self._judge(self.net.joined(sound, seen)[:, 0], present=True)

    def _judge(self, x: Tensor, present: bool) -> list[Score]:
        there = x.new_full((len(x),), float(present))
        if self.memory is not None:
            x, there, self.memory = self.net.fusion.step(x, there, self.memory)
        for ring in self.rings:
            x, there = ring.push(x, there)
        if self.rings:
            x = self.net.fusion.norm(x)  # type: ignore[operator]
        scores = self.net.head(x).softmax(-1)[:, 1].tolist()
        found = []
        for face, score, ready in zip(self.faces, scores, there.tolist(), strict=True):
            face.given += present
            if ready:
                found.append(Score(face.name, face.judged, score))
                face.judged += 1
        return found

    @torch.inference_mode()
    def close(self, name: Hashable) -> list[Score]:
        """The face has left: the decisions that waited for frames which do not come. Raises KeyError for another."""
        alone = self._part(name)
        found: list[Score] = []
        while alone.faces[0].judged < alone.faces[0].given:
            found += alone._judge(self.encoders.new_zeros(1, self.net.encoders.dim), present=False)
        return found

    @torch.inference_mode()
    def end(self) -> list[Score]:
        """The stream is over: the last decisions of all its faces."""
        return [score for face in [*self.faces] for score in self.close(face.name)]

    def state_bytes(self) -> int:
        """Bytes held between two frames, all faces together: in float32 ``net.state_bytes()`` each."""
        held = [self.encoders, *(tensor for ring in self.rings for tensor in ring.tensors().values())]
        held += [] if self.memory is None else [self.memory]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def _open(self, name: Hashable) -> None:
        self.faces.append(_Face(name))
        self._rows(lambda tensor: torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])]))

    def _part(self, name: Hashable) -> "FaceStreams":
        """Take a face out, into a stream of its own."""
        index = next((index for index, face in enumerate(self.faces) if face.name == name), None)
        if index is None:
            raise KeyError(name)
        alone = FaceStreams(self.net)
        alone.faces = [self.faces.pop(index)]
        for own, ring in zip(alone.rings, self.rings, strict=True):
            own.at, own.turn = ring.at, ring.turn
            for key, tensor in ring.tensors().items():
                setattr(own, key, tensor[index : index + 1].clone())
        if self.memory is not None:
            alone.memory = self.memory[index : index + 1].clone()
        self._rows(lambda tensor: torch.cat([tensor[:index], tensor[index + 1 :]]))
        return alone

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.encoders = change(self.encoders)
        if self.memory is not None:
            self.memory = change(self.memory)
        for ring in self.rings:
            for key, tensor in ring.tensors().items():
                setattr(ring, key, change(tensor))
