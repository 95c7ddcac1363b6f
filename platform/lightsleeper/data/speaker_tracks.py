"""What the data modules for active speakers share: loaders and the record's summary."""

from itertools import combinations
from typing import Any

from torch.utils.data import DataLoader

from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.module import DataModule
from lightsleeper.data.ranges import at_least
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.track_batches import FrameBudgetSampler, JudgedTracks, TrainingTracks
from lightsleeper.data.track_source import TrackSource


class SpeakerTracks(DataModule):
    """Base of the data modules for active speakers.

    Training batches: ``faces`` (B, T, S, S) uint8 grey, 25 frames a second; ``mfcc`` (B, 4T, 13) float32, four frames
    on one of video; ``label`` (B, T) int64, 1 where the face speaks and is heard. Batches of validation and test are
    one track each, whole: the same with B = 1, and ``label3`` (1, T) in the numbers of
    `metrics.active_speaker.LABELS`, ``timestamps``, ``face_px``, ``speakers`` (1, T), ``entity``, ``video`` and
    ``situation``.

    Raises:
        UserError: an argument is out of range.
    """

    fps = 25

    def __init__(self, size: int, batch_frames: int, augment: bool, workers: int, seed: int | None) -> None:
        super().__init__()
        at_least(16, size=size)
        at_least(1, batch_frames=batch_frames)
        at_least(0, workers=workers)
        self.size, self.batch_frames, self.augment = size, batch_frames, augment
        self.workers, self._seed = workers, seed

    parts: dict[str, TrackSource]
    """Train, val and test, known after ``setup``."""

    def collect(self) -> dict[str, TrackSource]:
        """The tracks of each part."""
        raise NotImplementedError

    def load(self) -> None:
        self.seed = run_seed(self._seed)
        self.parts = self.collect()

    def train_dataloader(self) -> DataLoader:
        epoch, source = SharedEpoch(), self.parts["train"]
        sampler = FrameBudgetSampler(source.frames, self.batch_frames, self.seed, epoch)
        return DataLoader(
            TrainingTracks(source, self.augment, self.seed, epoch), batch_sampler=sampler, collate_fn=_as_it_is,
            num_workers=self.workers, persistent_workers=self.workers > 0,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        return self._judged("val")

    def test_dataloader(self) -> DataLoader:
        return self._judged("test")

    def _judged(self, part: str) -> DataLoader:
        return DataLoader(
            JudgedTracks(self.parts[part]), batch_size=None, collate_fn=_as_it_is, num_workers=self.workers
        )

    def counts(self, part: str) -> dict[str, Any]:
        """Sizes of a part, for the summary."""
        frames = self.parts[part].frames
        total = int(frames.sum())
        return {"tracks": len(frames), "frames": total, "hours": round(total / self.fps / 3600, 3)}

    def members(self, part: str) -> dict[str, set[Any]]:
        """What must not be in two parts, by what it is: faces, voices, sentences, videos."""
        raise NotImplementedError

    def origin(self) -> str:
        """The hash of all tracks."""
        raise NotImplementedError

    protocol = ""

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, and what the parts share."""
        self.setup()
        members = {part: self.members(part) for part in self.parts}
        return {
            "hash": self.origin(),
            "protocol": self.protocol,
            "counts": {
                part: self.counts(part) | {kind: len(found) for kind, found in members[part].items()}
                for part in self.parts
            },
            "overlap": {
                f"{a}/{b}": {kind: len(members[a][kind] & members[b][kind]) for kind in members[a]}
                for a, b in combinations(self.parts, 2)
            },
        }


def _as_it_is(item: Any) -> Any:
    return item
