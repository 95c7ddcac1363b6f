"""How drawn faces move: people who speak or move their mouth as if they did, and people who chew, smile or laugh.

A head moves alike in all of them, so that it tells nothing of who speaks. Amplitudes and rates are ours.
"""

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.drawn_faces import Motion
from lightsleeper.data.visemes import OPEN, PRESS, SHAPE, TEETH, WIDTH, Shapes

STILL = ("listening", "off-screen")
SILENT = (*STILL, "chewing", "smiling", "laughing", "mouthing")
"""What a face does that does not speak. Still ones differ in who is heard: a visible face, or nobody visible."""
_BLINKS_PER_S, _BLINK_S = 0.3, 0.12


def wander(times_s: NDArray, rng: np.random.Generator, fastest_hz: float = 0.8) -> NDArray[np.float64]:
    """A slow, aimless movement (T,) about 0, its standard deviation 1: five sines."""
    hertz = rng.uniform(0.05, fastest_hz, 5)
    phase = rng.uniform(0, 2 * np.pi, 5)
    return np.sin(2 * np.pi * hertz * times_s[:, None] + phase).sum(1) / np.sqrt(2.5)


def at_rest(times_s: NDArray, rng: np.random.Generator) -> Motion:
    """A face that looks about, blinks, and keeps its mouth still but for a little."""
    shape = np.zeros((len(times_s), len(SHAPE)), np.float32)
    parted = rng.uniform(0.05, 0.3) if rng.random() < 0.2 else 0.0  # some people leave their mouth open
    shape[:, OPEN] = np.maximum(0, parted + 0.015 * wander(times_s, rng))
    shape[:, PRESS] = 0.0 if parted else 0.3 * np.clip(wander(times_s, rng, 0.4), 0, 2)
    return Motion(
        shape=shape,
        smile=np.clip(rng.uniform(-0.3, 0.4) + 0.08 * wander(times_s, rng, 0.3), 0, 1),
        shift=0.004 * wander(times_s, rng),
        blink=blinks(times_s, rng),
        gaze_x=np.clip(rng.normal(0, 0.5) + 0.4 * wander(times_s, rng), -1.5, 1.5),
        gaze_y=0.4 * wander(times_s, rng),
        yaw=rng.normal(0, 0.12) + 0.04 * wander(times_s, rng),
        pitch=rng.normal(0, 0.06) + 0.03 * wander(times_s, rng, 1.5),
        roll=rng.normal(0, 0.07) + 0.03 * wander(times_s, rng),
        x=rng.normal(0, 0.03) + 0.02 * wander(times_s, rng),
        y=rng.normal(0, 0.03) + 0.02 * wander(times_s, rng),
        zoom=rng.uniform(-0.1, 0.12) + 0.02 * wander(times_s, rng, 0.3),
    )


def say(motion: Motion, shapes: Shapes) -> None:
    """Let a face say what ``shapes`` (T, 6) are the mouth of; where they are 0 it stays at rest."""
    active = np.abs(shapes).max(1, keepdims=True) > 0
    motion.shape = np.where(active, shapes, motion.shape).astype(np.float32)


def chew(motion: Motion, times_s: NDArray, rng: np.random.Generator) -> None:
    """Lips closed or nearly so, the jaw going round once or twice a second, with pauses."""
    hertz = rng.uniform(1.0, 2.2) * (1 + 0.1 * wander(times_s, rng))
    phase = 2 * np.pi * np.cumsum(hertz * np.gradient(times_s)) + rng.uniform(0, 6)
    strength = np.clip(1.2 + wander(times_s, rng, 0.4), 0, 1) * rng.uniform(0.6, 1)
    mouth_open = rng.random() < 0.3
    motion.shape[:, OPEN] = strength * (0.5 - 0.5 * np.cos(phase)) * (0.45 if mouth_open else 0.16)
    motion.shape[:, PRESS] = 0.0 if mouth_open else 0.6 * strength
    motion.shift = motion.shift + 0.035 * strength * np.sin(phase)


def smile(motion: Motion, times_s: NDArray, rng: np.random.Generator) -> None:
    """Slowly, with teeth or without."""
    strength = np.clip(0.75 + 0.35 * wander(times_s, rng, 0.3), 0, 1)
    teeth = float(rng.random() < 0.6)
    motion.smile = np.maximum(motion.smile, strength)
    motion.shape[:, OPEN] = 0.22 * teeth * strength
    motion.shape[:, TEETH] = teeth
    motion.shape[:, WIDTH] = 0.6 * strength


def laugh(motion: Motion, times_s: NDArray, rng: np.random.Generator) -> None:
    """In bouts: mouth open and wide, shaking four or five times a second."""
    bout = np.clip(0.6 + 1.3 * wander(times_s, rng, 0.6), 0, 1)
    shake = np.sin(2 * np.pi * rng.uniform(3.8, 5.5) * times_s + rng.uniform(0, 6))
    motion.smile = np.maximum(motion.smile, 0.4 + 0.6 * bout)
    motion.shape[:, OPEN] = bout * (0.5 + 0.18 * shake) * rng.uniform(0.6, 1.2)
    motion.shape[:, TEETH] = 0.9
    motion.shape[:, WIDTH] = 0.7 * bout
    motion.y = motion.y + 0.02 * bout * shake


def blinks(times_s: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """(T,) lids: closed for a moment now and then."""
    length = float(times_s[-1] - times_s[0])
    moments = times_s[0] + rng.uniform(0, length, rng.poisson(_BLINKS_PER_S * length))
    near = np.abs(times_s[:, None] - moments[None])
    return np.clip(1.4 - near / (_BLINK_S / 2), 0, 1).max(1, initial=0)


GESTURES = {"chewing": chew, "smiling": smile, "laughing": laugh}
