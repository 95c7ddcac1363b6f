"""Grey faces drawn from numbers: who it is, how it moves, what the camera makes of it.

A face is drawn once, standing still, on a canvas of its own coordinates: x right, y down, its middle (0, 0), chin and
hairline about 1 away. Mouth and eyes are drawn over it frame by frame; then every frame is turned, lit, reduced to the
size it had in the picture, and made noisy. Everything is one tensor operation over all frames of a track.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lightsleeper.data.visemes import OPEN, PRESS, ROUND, TEETH, TONGUE, WIDTH

SPAN = 1.15
"""The picture shows -SPAN..SPAN of a face that does not move."""
_GAP = 0.42  # of lips at `open` 1
_SEAM = 0.014  # a closed mouth is a dark line


@dataclass(frozen=True)
class Face:
    """Who it is: an identity. Lengths in units of the face, shades 0 black to 1 white."""

    width: float
    jaw: float
    """How much narrower the chin is."""
    skin: float
    hair: float
    hairline: float
    eye_y: float
    eye_x: float
    eye_size: float
    brow: float
    nose: float
    mouth_y: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_shade: float
    """Of skin: below 1 darker."""
    beard: float
    """0 none, 1 dense."""
    glasses: float
    """0 none, else the darkness of their frame."""
    articulation: float
    """How far this mouth opens in speech."""
    seed: int
    """Of skin and background."""


_RANGES = {
    "width": (0.68, 0.86), "jaw": (0.05, 0.32), "skin": (0.28, 0.88), "hair": (0.05, 0.75), "hairline": (-0.85, -0.55),
    "eye_y": (-0.28, -0.14), "eye_x": (0.28, 0.38), "eye_size": (0.075, 0.12), "brow": (0.02, 0.06),
    "nose": (0.08, 0.14), "mouth_y": (0.44, 0.56), "mouth_width": (0.24, 0.36), "lip_upper": (0.02, 0.07),
    "lip_lower": (0.04, 0.09), "lip_shade": (0.6, 0.92), "articulation": (0.7, 1.25),
}  # fmt: skip
_BEARDED, _GLASSES = 0.25, 0.2  # shares of identities


def draw_face(identity: int, seed: int) -> Face:
    """The face of an identity, a number; the same for the same two numbers."""
    rng = np.random.default_rng([seed, identity, 70])
    chosen = {name: float(rng.uniform(*bounds)) for name, bounds in _RANGES.items()}
    return Face(
        **chosen,
        beard=float(rng.uniform(0.3, 1)) if rng.random() < _BEARDED else 0.0,
        glasses=float(rng.uniform(0.4, 1)) if rng.random() < _GLASSES else 0.0,
        seed=int(rng.integers(2**31)),
    )


@dataclass
class Motion:
    """How a face moves in T frames: arrays (T,), 0 at rest."""

    shape: NDArray[np.float32]
    """(T, 6) of the mouth, see `visemes.SHAPE`."""
    smile: NDArray
    """Corners of the mouth up, 0 to 1."""
    shift: NDArray
    """Of the jaw to the side, units of the face."""
    blink: NDArray
    """0 open eyes, 1 closed."""
    gaze_x: NDArray
    gaze_y: NDArray
    yaw: NDArray
    pitch: NDArray
    roll: NDArray
    """Radians."""
    x: NDArray
    y: NDArray
    zoom: NDArray
    """Of the size, 0 as it is."""

    def tensors(self) -> dict[str, Tensor]:
        """Each (T, 1, 1), the shape (T, 6)."""
        found = {f.name: torch.as_tensor(np.asarray(getattr(self, f.name), np.float32)) for f in fields(self)}
        return {name: value if name == "shape" else value[:, None, None] for name, value in found.items()}


@dataclass(frozen=True)
class Camera:
    """What a track goes through on its way into the picture."""

    px: float
    """Width of the face in the picture, pixels: sharper than that it never is."""
    gain: float
    gamma: float
    light: tuple[float, float]
    """How much brighter the right side and the lower side are."""
    noise: float
    """Standard deviation, of full scale."""
    occluder: tuple[float, float, float, int, int] | None
    """x, y and radius of something in front of the face, and the frames between which it is there."""
    seed: int


def render(face: Face, motion: Motion, camera: Camera, size: int) -> NDArray[np.uint8]:
    """The track (T, size, size): face ``face`` moving as ``motion`` says, seen by ``camera``."""
    move = motion.tensors()
    canvas = still(face, size)[None].repeat(len(motion.blink), 1, 1)
    _draw_eyes(canvas, face, move)
    _draw_mouth(canvas, face, move)
    picture = F.grid_sample(canvas[:, None], _places(face, move, size), padding_mode="border", align_corners=False)
    return _seen(picture[:, 0], camera)


def still(face: Face, size: int) -> Tensor:
    """A face (size, size) without mouth and eyes, in front of its background."""
    generator = torch.Generator().manual_seed(face.seed)
    x, y = _axes(size)
    px = 2 * SPAN / size
    background = torch.rand((), generator=generator) * 0.7 + 0.1 + 0.12 * _cloud(size, generator)
    half = face.width * (1 - face.jaw * y.clamp_min(0) ** 2)
    outline = 1 - ((x / half).abs() ** 2.3 + (y / 1.0).abs() ** 2.5)  # above 0 within the head
    inside = _soft(outline * 0.4, px)
    hair = _soft((1.12 - ((x / (face.width + 0.1)) ** 2 + ((y + 0.12) / 1.0) ** 2)) * 0.4, px)
    picture = _over(background, face.hair + 0.05 * _cloud(size, generator), hair * (y < 0.55))
    skin = face.skin * (1 - 0.28 * (x / face.width) ** 2 - 0.1 * y.clamp_min(0) ** 2)
    skin = skin * (1 + 0.05 * _cloud(size, generator)) + 0.012 * torch.randn((size, size), generator=generator)
    for side in (-1, 1):  # sockets, nostrils, folds beside the nose
        skin = skin * (1 - 0.18 * _spot(x - side * face.eye_x, y - face.eye_y, 0.2, 0.13))
        skin = skin * (1 - 0.45 * _spot(x - side * face.nose * 0.6, y - 0.2, 0.035, 0.028))
    skin = skin * (1 + 0.12 * _spot(x, y, face.nose * 0.35, 0.22)) * (1 - 0.15 * _spot(x, y - 0.25, face.nose, 0.04))
    if face.beard:
        where = _spot(x, y - 0.75, face.width * 0.75, 0.42) * (0.85 + 0.15 * _cloud(size, generator))
        skin = _over(skin, torch.tensor(face.hair * 0.7), face.beard * 0.8 * where.clamp(0, 1))
    fringe = _soft(face.hairline + 0.06 * torch.cos(3 * x) - y, 0.06)
    return _over(picture, _over(skin, torch.tensor(face.hair), fringe), inside).clamp(0, 1)


def _draw_eyes(canvas: Tensor, face: Face, move: dict[str, Tensor]) -> None:
    """Eyes, brows and glasses over ``canvas`` (T, S, S), in place."""
    rows, columns, x, y, px = _window(canvas, (-0.72, 0.72), (face.eye_y - 0.28, face.eye_y + 0.2))
    patch = canvas[:, rows, columns]
    wide, high = face.eye_size * 1.6, face.eye_size * 0.8 * (1 - move["blink"]) + 0.004
    for side in (-1, 1):
        u, v = x - side * face.eye_x, y - face.eye_y
        opening = _soft((1 - (u / wide) ** 2 - (v / high) ** 2) * high * 0.5, px)
        patch = _over(patch, torch.tensor(min(1.0, face.skin * 0.3 + 0.6)), opening)
        iris = (face.eye_size * 0.62) ** 2 - (u - 0.05 * move["gaze_x"]) ** 2 - (v - 0.03 * move["gaze_y"]) ** 2
        patch = _over(patch, torch.tensor(0.12), opening * _soft(iris / face.eye_size, px))
        lid = _soft(0.016 - ((v + high * (1 - (u / wide) ** 2).clamp_min(0)).abs()), px) * (u.abs() < wide)
        patch = _over(patch, torch.tensor(face.skin * 0.3), lid * 0.8)
        brow = _soft(face.brow - (v + 0.17 + 0.1 * u**2 - 0.02 * side * u).abs(), px) * (u.abs() < wide * 1.2)
        patch = _over(patch, torch.tensor(face.hair * 0.6), brow * 0.8)
        if face.glasses:
            ring = _soft(0.018 - ((u / 0.24) ** 2 + (v / 0.19) ** 2 - 1).abs() * 0.1, px)
            patch = _over(patch, torch.tensor(0.05), ring * face.glasses)
    canvas[:, rows, columns] = patch


def _draw_mouth(canvas: Tensor, face: Face, move: dict[str, Tensor]) -> None:
    """Lips, teeth and tongue over ``canvas`` (T, S, S), in place."""
    rows, columns, x, y, px = _window(canvas, (-0.55, 0.55), (face.mouth_y - 0.22, face.mouth_y + 0.5))
    shape = {i: move["shape"][:, i, None, None] for i in (OPEN, WIDTH, ROUND, TEETH, TONGUE, PRESS)}
    smile, rounded, pressed = move["smile"], shape[ROUND], shape[PRESS]
    half = face.mouth_width * (1 + 0.16 * shape[WIDTH] - 0.38 * rounded + 0.22 * smile)
    u = (x - move["shift"]) / half
    dome = (1 - u**2).clamp_min(0)
    middle = face.mouth_y + 0.02 * move["shape"][:, OPEN, None, None] - 0.11 * smile * (u**2 - 0.3)
    gap = _gap(face, move) + _SEAM * (1 - 0.5 * pressed)
    thicker = (1 + 0.25 * rounded) * (1 - 0.5 * pressed)
    upper, lower = middle - 0.3 * gap * dome, middle + 0.7 * gap * dome  # inner edges of the lips
    root = dome.sqrt()
    top = upper - face.lip_upper * thicker * root * (1 - 0.25 * torch.exp(-((u / 0.18) ** 2)))
    bottom = lower + face.lip_lower * thicker * root
    lips, cavity = _soft(y - top, px) * _soft(bottom - y, px), _soft(y - upper, px) * _soft(lower - y, px)
    lip_shade = face.skin * face.lip_shade * (0.92 + 0.5 * (y - lower).clamp(0, 0.1))
    shadow = _spot(u * 0.5, y - bottom - 0.05, 0.35, 0.035) * (1 - 0.15 * pressed)
    patch = canvas[:, rows, columns] * (1 - 0.18 * shadow)
    patch = _over(patch, lip_shade, lips * (dome > 0))
    patch = _over(patch, torch.tensor(0.06), cavity)
    shown = shape[TEETH].clamp(0, 1)
    teeth = _soft(upper + (0.02 + 0.06 * shown) * dome - y, px) * shown.clamp_max(0.9)
    patch = _over(patch, torch.tensor(min(0.95, 0.35 + 0.6 * face.skin)), cavity * teeth)
    tongue = _soft(y - lower + (0.25 + 0.45 * shape[TONGUE]) * gap * dome, px) * (0.35 + 0.5 * shape[TONGUE])
    patch = _over(patch, torch.tensor(face.skin * 0.45), cavity * tongue)
    canvas[:, rows, columns] = patch


def _gap(face: Face, move: dict[str, Tensor]) -> Tensor:
    """Between the lips, (T, 1, 1)."""
    return _GAP * face.articulation * move["shape"][:, OPEN, None, None].clamp_min(0)


def _places(face: Face, move: dict[str, Tensor], size: int) -> Tensor:
    """Where on the canvas each pixel is taken from, (T, S, S, 2) in [-1, 1]: a head turns, a chin drops."""
    x, y = _axes(size)
    depth = (1 - (x / 0.95) ** 2 - (y / 1.15) ** 2).clamp_min(0).sqrt()  # how near the camera: what turns most
    cosine, sine, size_ = move["roll"].cos(), move["roll"].sin(), 1 / (1 + move["zoom"])
    across = (cosine * x + sine * y) * size_ - move["x"] - move["yaw"] * depth
    down = (cosine * y - sine * x) * size_ - move["y"] - move["pitch"] * depth
    below = ((down - face.mouth_y - 0.08) / 0.4).clamp(0, 1)
    down = down - 0.5 * _gap(face, move) * below * (1 - 0.35 * below)
    return torch.stack([across, down], -1) / SPAN


def _seen(picture: Tensor, camera: Camera) -> NDArray[np.uint8]:
    """Frames (T, S, S) in [0, 1] as the camera writes them."""
    frames, size, _ = picture.shape
    generator = torch.Generator().manual_seed(camera.seed)
    x, y = _axes(size)
    picture = picture * (camera.gain * (1 + camera.light[0] * x + camera.light[1] * y))
    if camera.occluder is not None:
        ox, oy, radius, first, last = camera.occluder
        mask = _soft((1 - ((x - ox) / radius) ** 2 - ((y - oy) / (1.6 * radius)) ** 2) * radius * 0.5, 2 * SPAN / size)
        thing = 0.5 * torch.rand((), generator=generator) + 0.2 + 0.1 * _cloud(size, generator)
        picture[first:last] = _over(picture[first:last], thing, mask)
    picture = picture.clamp(0, 1) ** camera.gamma
    small = max(8, round(camera.px))
    if small < size:  # fewer pixels than the crop has: no detail beyond them
        picture = F.interpolate(picture[:, None], size=(small, small), mode="area")
        picture = picture + camera.noise * torch.randn(picture.shape, generator=generator)
        picture = F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    else:
        picture = picture + camera.noise * torch.randn(picture.shape, generator=generator)
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()


def _axes(size: int) -> tuple[Tensor, Tensor]:
    """x (1, S) and y (S, 1) of the pixels' middles."""
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * SPAN
    return line[None], line[:, None]


def _window(
    canvas: Tensor, across: tuple[float, float], down: tuple[float, float]
) -> tuple[slice, slice, Tensor, Tensor, float]:
    """Rows and columns of a stretch of the canvas, their x (1, w) and y (h, 1), and the size of a pixel."""
    size = canvas.shape[-1]
    x, y = _axes(size)

    def span(bounds: tuple[float, float]) -> slice:
        first, last = (int((bound / SPAN + 1) / 2 * size) for bound in bounds)
        return slice(max(0, first), min(size, last + 1))

    rows, columns = span(down), span(across)
    return rows, columns, x[:, columns], y[rows], 2 * SPAN / size


def _soft(distance: Tensor, px: float) -> Tensor:
    """1 within (distance above 0), 0 outside, and a border of one pixel."""
    return (distance / px + 0.5).clamp(0, 1)


def _over(below: Tensor, shade: Tensor, mask: Tensor) -> Tensor:
    return below + (shade - below) * mask


def _spot(x: Tensor, y: Tensor, wide: float, high: float) -> Tensor:
    return torch.exp(-((x / wide) ** 2) - (y / high) ** 2)


def _cloud(size: int, generator: torch.Generator) -> Tensor:
    """Smooth noise (size, size), about -1 to 1: skin, hair, rooms."""
    total = torch.zeros(1, 1, size, size)
    for cells in (4, 9, 20):
        coarse = torch.randn((1, 1, cells, cells), generator=generator)
        total += F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True) / cells**0.3
    return total[0, 0] / 2
