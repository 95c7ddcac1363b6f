"""Scenes with faces and voices: who is in the picture, who speaks when, and what the others do. Numbers only.

Every scene has one sound and one to three faces. A turn is a sentence, spoken by one of the faces or by somebody who is
not in the picture. Faces without a turn are silent; most of them move their lips to another sentence, about as often as
faces speak, at times drawn alike. So the sound alone cannot say which face it belongs to, and the picture alone cannot
tell speech from silent mouthing: only whether lips and sound agree can.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.gestures import STILL

FPS = 25
MOST_FACES = 3
_FACES = (0.4, 0.35, 0.25)  # shares of scenes with 1, 2, 3 of them
_OFF_SCREEN = 0.35  # of turns
_TWO_TURNS = 0.3  # of scenes
_NOBODY = 0.06  # of scenes in which nobody is heard
_SILENT = {"mouthing": 0.55, "still": 0.15, "chewing": 0.1, "smiling": 0.1, "laughing": 0.1}
_LEAD_S, _GAP_S, _TAIL_S = (0.1, 0.9), (0.2, 0.8), (0.1, 0.6)
_LONGEST_S = 6.0
_DELAY_S = (0.0, 0.08)  # of the sound, as a cheap camera has it
_PX = (24.0, 200.0)  # width of a face in the picture


@dataclass(frozen=True)
class Turn:
    """A sentence that is heard."""

    clip: int
    start_s: float
    face: int
    """Number of the face in the scene; -1: somebody who is not in the picture."""


@dataclass(frozen=True)
class Role:
    """A face of a scene."""

    identity: int
    situation: str
    """See `metrics.active_speaker.SITUATIONS`."""
    px: float
    mouthed: int = -1
    """The clip that it moves its lips to without a sound; -1: none."""
    mouthed_start_s: float = 0.0


@dataclass(frozen=True)
class SceneScript:
    """One scene, all of it."""

    part: str
    number: int
    seconds: float
    delay_s: float
    """Of the sound against the picture."""
    turns: tuple[Turn, ...]
    roles: tuple[Role, ...]
    seed: int
    """For movements, pictures and noise."""

    @property
    def frames(self) -> int:
        return int(self.seconds * FPS)


def write_scenes(
    part: str,
    count: int,
    voices: Mapping[str, Sequence[int]],
    seconds: Sequence[float] | NDArray,
    identities: Sequence[int],
    rng: np.random.Generator,
) -> list[SceneScript]:
    """``count`` scenes. ``voices`` are the clips of each voice, ``seconds`` the length of every clip."""
    return [_scene(part, number, voices, seconds, identities, rng) for number in range(count)]


def _scene(
    part: str,
    number: int,
    voices: Mapping[str, Sequence[int]],
    seconds: Sequence[float] | NDArray,
    identities: Sequence[int],
    rng: np.random.Generator,
) -> SceneScript:
    faces = 1 + int(rng.choice(len(_FACES), p=_FACES))
    names = list(voices)
    speakers = [names[int(i)] for i in rng.choice(len(names), faces + 1, replace=len(names) <= faces)]
    turns: list[Turn] = []
    at = float(rng.uniform(*_LEAD_S))
    wanted = 0 if rng.random() < _NOBODY else 2 if rng.random() < _TWO_TURNS else 1
    while len(turns) < wanted:
        face = -1 if rng.random() < _OFF_SCREEN else int(rng.integers(faces))
        clip = _one_of(voices[speakers[face]], rng)
        turns.append(Turn(clip, at, face))
        at += float(seconds[clip]) + float(rng.uniform(*_GAP_S))
    roles = [_role(turns, face, voices, identities, rng) for face in range(faces)]
    end = max(
        [turn.start_s + float(seconds[turn.clip]) for turn in turns]
        + [role.mouthed_start_s + float(seconds[role.mouthed]) for role in roles if role.mouthed >= 0],
        default=float(rng.uniform(1.5, 3)),
    )
    length = min(_LONGEST_S, end + float(rng.uniform(*_TAIL_S)))
    delay = float(rng.uniform(*_DELAY_S))
    return SceneScript(part, number, length, delay, tuple(turns), tuple(roles), int(rng.integers(2**62)))


def _role(
    turns: Sequence[Turn],
    face: int,
    voices: Mapping[str, Sequence[int]],
    identities: Sequence[int],
    rng: np.random.Generator,
) -> Role:
    identity = _one_of(identities, rng)
    px = float(np.exp(rng.uniform(*np.log(_PX))))
    if any(turn.face == face for turn in turns):
        return Role(identity, "speaking", px)
    kinds = list(_SILENT)
    situation = kinds[int(rng.choice(len(kinds), p=list(_SILENT.values())))]
    if situation == "still":
        situation = STILL[0] if any(turn.face >= 0 for turn in turns) else STILL[1]
        if turns:
            return Role(identity, situation, px)
        situation = "mouthing"  # a still face in a scene without a voice would tell nothing
    if situation != "mouthing":
        return Role(identity, situation, px)
    heard = {turn.clip for turn in turns}
    while (clip := _one_of(voices[list(voices)[int(rng.integers(len(voices)))]], rng)) in heard:
        pass
    return Role(identity, situation, px, clip, float(rng.uniform(*_LEAD_S)))


def _one_of(numbers: Sequence[int], rng: np.random.Generator) -> int:
    return int(numbers[int(rng.integers(len(numbers)))])
