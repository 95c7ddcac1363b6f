"""Batches of face tracks: packed by frames and disturbed as TalkNet and Light-ASD do; for judging, one track each.

A packed batch holds tracks of similar length, as many as fit the budget, all cut to the shortest of them. Each track is
flipped, cropped or turned, one of them or none, all of its frames alike; to half of them the sound of another track of
the batch is added.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from lightsleeper.data.batch import SharedEpoch, _ranks
from lightsleeper.data.mfcc import mfcc_of_frames
from lightsleeper.data.track_source import Track, TrackSource
from lightsleeper.metrics.active_speaker import SPEAKING

Picture = Literal["none", "flip", "crop", "rotate"]
_CROP, _DEGREES = (0.7, 1.0), (-15.0, 15.0)
_SNR_DB = (-5.0, 5.0)


class FrameBudgetSampler(BatchSampler):
    """Batches of tracks, longest first into each, that hold at most ``budget`` frames once cut to their shortest.

    A track longer than the budget is a batch of its own. Which of equally long tracks meet, and the order of the
    batches, are a pure function of (seed, epoch). Under torch.distributed each rank takes its share of the batches.

    Args:
        frames: length of each track.
        budget: frames of a batch; TalkNet and Light-ASD use 2000 to 2500.
        seed: of the order.
        epoch: told of every new epoch.
        sampler: ignored; Lightning passes one to batch samplers that it rebuilds.
    """

    def __init__(
        self, frames: Sequence[int] | NDArray, budget: int, seed: int = 0, epoch: SharedEpoch | None = None,
        sampler: Any = None,
    ) -> None:  # fmt: skip
        self.frames, self.budget, self.seed, self.epoch = np.asarray(frames), budget, seed, 0
        self._shared = epoch

    @property
    def sampler(self) -> "FrameBudgetSampler":  # type: ignore[override]
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self._shared is not None:
            self._shared.set(epoch)

    def __len__(self) -> int:
        return -(-len(self._cuts()) // _ranks()[1])

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, 60])
        order = rng.permutation(len(self.frames))
        order = order[np.argsort(-self.frames[order], kind="stable")]
        batches = [order[a:b].tolist() for a, b in self._cuts()]
        batches = [batches[i] for i in rng.permutation(len(batches))]
        rank, world = _ranks()
        batches += [batches[i % len(batches)] for i in range(-len(batches) % world)] if batches else []
        yield from batches[rank::world]

    def _cuts(self) -> list[tuple[int, int]]:
        """First and last of each batch among the tracks, the longest first."""
        lengths = np.sort(self.frames)[::-1]
        cuts, start = [], 0
        for at in range(1, len(lengths) + 1):  # one more would make all as short as it, and still be too many
            if at == len(lengths) or (at + 1 - start) * lengths[at] > self.budget:
                cuts.append((start, at))
                start = at
        return cuts


class TrainingTracks(Dataset):
    """Whole batches by the numbers of their tracks: ``faces`` (B, T, S, S) uint8, ``mfcc`` (B, 4T, 13) float32 and
    ``label`` (B, T) int64, 1 where the face speaks and is heard.

    Args:
        source: the tracks.
        augment: flip, crop, turn, and add other tracks' sound.
        seed: of the augmentation, with the epoch and the tracks of the batch.
        epoch: the one under way.
    """

    def __init__(self, source: TrackSource, augment: bool, seed: int, epoch: SharedEpoch) -> None:
        self.source, self.augment, self.seed, self.epoch = source, augment, seed, epoch

    def __len__(self) -> int:
        return len(self.source.frames)

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        tracks = [self.source.track(number) for number in numbers]
        count = min(len(track.label3) for track in tracks)
        rng = np.random.default_rng([self.seed, self.epoch.get(), 61, *sorted(numbers)[:2]])
        sounds = [track.audio for track in tracks]
        pictures = [torch.from_numpy(track.faces[:count].copy()) for track in tracks]
        if self.augment:
            sounds = [_joined(sound, sounds, i, rng) for i, sound in enumerate(sounds)]
            pictures = [changed(picture, rng) for picture in pictures]
        return {
            "faces": torch.stack(pictures),
            "mfcc": torch.from_numpy(
                np.stack([mfcc_of_frames(s, count, fps=track.fps) for s, track in zip(sounds, tracks, strict=True)])
            ),
            "label": torch.from_numpy(np.stack([track.label3[:count] == SPEAKING for track in tracks])).long(),
        }


class JudgedTracks(Dataset):
    """Each track by itself, whole, as a batch of one: as `TrainingTracks` without augmentation, and ``label3``,
    ``timestamps``, ``face_px``, ``speakers`` (1, T) and ``entity``, ``video``, ``situation``, texts."""

    def __init__(self, source: TrackSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.frames)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return judged(self.source.track(number))


def judged(track: Track) -> dict[str, Any]:
    """A track as `JudgedTracks` gives it."""
    return {
        "faces": torch.from_numpy(track.faces.copy())[None],
        "mfcc": torch.from_numpy(mfcc_of_frames(track.audio, len(track.faces), fps=track.fps))[None],
        **known(track),
    }


def known(track: Track) -> dict[str, Any]:
    """All of `judged` but what is seen and heard."""
    columns = {name: np.array(getattr(track, name)) for name in ("label3", "timestamps", "face_px", "speakers")}
    return {
        "label": torch.from_numpy(track.label3 == SPEAKING).long()[None],
        **{name: torch.from_numpy(column)[None] for name, column in columns.items()},
        **{name: getattr(track, name) for name in ("entity", "video", "situation")},
    }


def changed(picture: Tensor, rng: np.random.Generator, kind: Picture | None = None) -> Tensor:
    """A track's pictures (T, S, S) uint8 flipped, cropped and enlarged again, turned, or as they are; None: drawn."""
    kinds = get_args(Picture)
    kind = kind or kinds[int(rng.integers(len(kinds)))]
    if kind == "none":
        return picture
    if kind == "flip":
        return picture.flip(-1)
    if kind == "crop":
        share = float(rng.uniform(*_CROP))
        x, y = (float(rng.uniform(share - 1, 1 - share)) for _ in range(2))  # of the middle
        matrix = [[share, 0.0, x], [0.0, share, y]]
    else:
        angle = np.deg2rad(rng.uniform(*_DEGREES))
        matrix = [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0]]
    size = picture.shape[-1]
    grid = F.affine_grid(torch.tensor([matrix], dtype=torch.float32), [1, 1, size, size], align_corners=False)
    # Frames are channels here: one grid for all of them.
    moved = F.grid_sample(picture[None].float(), grid, padding_mode="zeros", align_corners=False)[0]
    return moved.round().to(torch.uint8)


def _joined(sound: NDArray, sounds: Sequence[NDArray], own: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``sound``, or in half of all cases with another one of ``sounds`` under it, repeated where it is shorter."""
    if len(sounds) < 2 or rng.random() < 0.5:
        return sound
    other = int(rng.integers(len(sounds) - 1))
    noise = np.resize(sounds[other + (other >= own)], len(sound))
    ratio = _power(sound) / _power(noise) * 10 ** (-rng.uniform(*_SNR_DB) / 10)
    return (sound + np.float32(np.sqrt(ratio)) * noise).astype(np.float32)


def _power(sound: NDArray) -> float:
    return float(np.mean(np.square(sound, dtype=np.float64))) + 1e-12
