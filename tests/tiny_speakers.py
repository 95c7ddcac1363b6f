"""A small stand-in for talking faces: a bar that is as bright as the sound is loud, or does not care."""

from typing import Any

import torch
from lightsleeper.data.module import DataModule
from torch.utils.data import DataLoader, Dataset


class Bars(DataModule):
    """Tracks of ``frames`` frames and a few more: the bar of one that speaks follows the sound, that of a silent one
    flickers by itself; sometimes nothing sounds.

    Args:
        tracks: To train on; half as many to validate and to test.
        frames: Of the shortest track.
        edge: Pixels of a face.
        batch: Tracks of a training batch.
    """

    test_names = ("",)

    def __init__(self, tracks: int = 24, frames: int = 20, edge: int = 56, batch: int = 8) -> None:
        super().__init__()
        self.tracks, self.frames, self.edge, self.batch = tracks, frames, edge, batch

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._set(0, self.tracks), self.batch, shuffle=True, collate_fn=_stacked)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._set(1, self.tracks // 2), batch_size=None)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self._set(2, self.tracks // 2), batch_size=None)

    def _set(self, part: int, count: int) -> Dataset:
        return _Bars(part, count, self.frames, self.edge)

    def summary(self) -> dict[str, Any]:
        return {"hash": f"bars-{self.tracks}-{self.frames}-{self.edge}"}


class _Bars(Dataset):
    def __init__(self, part: int, count: int, frames: int, edge: int) -> None:
        self.part, self.count, self.frames, self.edge = part, count, frames, edge

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(1000 * self.part + index)
        frames = self.frames + index % 4
        loud = torch.rand(frames, generator=draw)
        speaks = (torch.arange(frames) // 7 + index) % 2
        sounds = loud * (torch.rand((), generator=draw) > 0.2)
        bright = torch.where(speaks.bool(), sounds, torch.rand(frames, generator=draw))
        rows = (torch.arange(self.edge) // (self.edge // 4) == 2)[None, :, None]  # the third quarter from above
        faces = (250 * rows * bright[:, None, None]).expand(frames, self.edge, self.edge).to(torch.uint8)
        mfcc = torch.randn(4 * frames, 13, generator=draw) * 0.1
        mfcc[:, 0] += 4 * sounds.repeat_interleave(4)
        one = torch.ones(1, frames)
        return {
            "faces": faces[None],
            "mfcc": mfcc[None],
            "label": (speaks * (sounds > 0))[None].long(),
            "label3": (speaks * (sounds > 0))[None].long(),
            "entity": f"track-{index}",
            "video": f"video-{self.part}",
            "timestamps": torch.arange(frames)[None] / 25.0,
            "face_px": 90 * one,
            "speakers": one,
            "situation": "speaking",
        }


def _stacked(items: list[dict[str, Any]]) -> dict[str, Any]:
    shortest = min(item["label"].shape[1] for item in items)
    return {
        "faces": torch.cat([item["faces"][:, :shortest] for item in items]),
        "mfcc": torch.cat([item["mfcc"][:, : 4 * shortest] for item in items]),
        "label": torch.cat([item["label"][:, :shortest] for item in items]),
    }
