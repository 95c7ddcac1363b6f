"""Vectors of faces and sound in place of pixels and MFCC: a trained encoder sees every track once.

Training a fusion on them takes seconds where training it on faces takes minutes, and every fusion hears the same. The
encoder is the file `embed.onnx` that a run of an ActiveSpeaker exports; what it made is kept in the cache folder, by
the hashes of that file and of the data.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from lightsleeper.data.module import DataModule, asked
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.track_batches import FrameBudgetSampler
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, replacing, sha256
from lightsleeper.run_folder import EXPORT

CATALOG = ("SpeakerEmbeddings",)
VERSION = 1
GRAPH = "embed.onnx"
_INPUTS = ("faces", "mfcc")
_VECTORS = ("sound_embedding", "face_embedding")
_DRAWS = ("augment", "batch_frames", "seed")  # arguments of data that are no part of its tracks

Batch = dict[str, Any]


@dataclass
class Tracks:
    """Tracks of different lengths, their columns one behind the other."""

    columns: dict[str, Tensor] = field(default_factory=dict)
    """Name -> (frames of all tracks, ...)"""
    lengths: list[int] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Name -> one a track, such as ``entity``."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __post_init__(self) -> None:
        self._begins = [0, *torch.tensor(self.lengths or [0]).cumsum(0).tolist()]

    def __getitem__(self, index: int) -> Batch:
        """One track as a batch of one: columns (1, T, ...)."""
        part = slice(self._begins[index], self._begins[index + 1])
        texts = {name: values[index] for name, values in self.texts.items()}
        return {**{name: column[part][None] for name, column in self.columns.items()}, **texts}

    @classmethod
    def gather(cls, batches: Iterable[Batch]) -> "Tracks":
        """From batches of one track each."""
        columns: dict[str, list[Tensor]] = {}
        texts: dict[str, list[str]] = {}
        lengths = []
        for batch in batches:
            lengths.append(batch[_VECTORS[0]].shape[1])
            for name, value in batch.items():
                if isinstance(value, Tensor):
                    columns.setdefault(name, []).append(value.reshape(lengths[-1], *value.shape[2:]))
                else:
                    texts.setdefault(name, []).append(str(value))
        return cls({name: torch.cat(parts) for name, parts in columns.items()}, lengths, texts)

    @classmethod
    def joined(cls, parts: Sequence["Tracks"]) -> "Tracks":
        """Without their texts."""
        columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
        return cls(columns, [length for part in parts for length in part.lengths])

    def save(self, path: Path) -> None:
        facts = {"lengths": json.dumps(self.lengths), "texts": json.dumps(self.texts)}
        with replacing(path) as temporary:
            save_file({name: column.contiguous() for name, column in self.columns.items()}, temporary, facts)

    @classmethod
    def load(cls, path: Path) -> "Tracks":
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return cls(columns, json.loads(facts["lengths"]), json.loads(facts["texts"]))


class SpeakerEmbeddings(DataModule):
    """Another data module's tracks, as a trained encoder sees them.

    Args:
        encoder: Run or export folder of a finished ActiveSpeaker.
        data: Whose tracks.
        passes: How often the training tracks are embedded, each time augmented anew; an epoch is all of them.
        batch_frames: Frames of a training batch at most, all its tracks cut to the shortest. Published: 2000.
        seed: Of the order of the training tracks; null takes the run's.

    Raises ValueError for values without sense; `check` raises UserError where the encoder exported no file.
    """

    def __init__(
        self,
        encoder: str | Path,
        data: DataModule,
        passes: int = 1,
        batch_frames: int = 2000,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("passes", passes), ("batch_frames", batch_frames)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")
        self.encoder, self.data, self.passes, self.batch_frames = Path(encoder), data, passes, batch_frames
        self.seed = run_seed(seed)

    def check(self) -> None:
        if not self._graph.is_file():
            raise UserError(f"encoder: '{self.encoder}' has no {GRAPH}: expected a run that exported to onnx.")
        asked(self.data, "check")()

    @property
    def _graph(self) -> Path:
        inner = self.encoder / EXPORT / GRAPH
        return inner if inner.is_file() else self.encoder / GRAPH

    def load(self) -> None:
        self.check()
        self.data.prepare_data()
        self.data.setup()
        self.test_names = asked(self.data, "test_names")
        self.key = content_hash([VERSION, sha256(self._graph), self._origin()])
        folder = cache_folder("speaker_embeddings", self.key)
        self.training = Tracks.joined([
            self._kept(folder / f"train-{number}.safetensors", partial(self._train, number))
            for number in range(self.passes)
        ])  # fmt: skip
        self.validation = self._kept(folder / "val.safetensors", lambda: _listed(self.data.val_dataloader())[0])
        self.tests = [
            self._kept(folder / f"test-{number}.safetensors", partial(_same, loader))
            for number, loader in enumerate(_listed(self.data.test_dataloader()))
        ]

    def _origin(self) -> Any:
        """What the tracks are, and what their augmentation is drawn from."""
        summary = asked(self.data, "summary")()
        return [
            summary.get("hash"),
            type(self.data).__name__,
            [repr(getattr(self.data, name, None)) for name in _DRAWS],
        ]

    def _train(self, number: int) -> Iterable[Batch]:
        loader = _listed(self.data.train_dataloader())[0]
        if hasattr(loader.batch_sampler, "set_epoch"):  # what augmentation is drawn from
            loader.batch_sampler.set_epoch(number)
        return loader

    def _kept(self, path: Path, batches: Any) -> Tracks:
        with FileLock(path.with_suffix(".lock")):  # several trainings wait for the first
            if not path.is_file():
                Tracks.gather(_embedded(self._graph, batches())).save(path)
        return Tracks.load(path)

    def summary(self) -> dict[str, Any]:
        return {**asked(self.data, "summary")(), "hash": self.key}

    def train_dataloader(self) -> DataLoader:
        packing = FrameBudgetSampler(self.training.lengths, self.batch_frames, self.seed)
        return DataLoader(self.training, batch_sampler=packing, collate_fn=_cut)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(tracks, batch_size=None) for tracks in self.tests]  # type: ignore[arg-type]


def _cut(rows: Sequence[Batch]) -> Batch:
    """Tracks as one batch, all as long as the shortest."""
    shortest = min(row["label"].shape[1] for row in rows)
    return {name: torch.cat([row[name][:, :shortest] for row in rows]) for name in (*_VECTORS, "label")}


def _embedded(graph: Path, batches: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
    """Tracks one by one, faces and MFCC replaced by what the encoder makes of them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    edge = next(one.shape[-1] for one in session.get_inputs() if one.name == "faces")
    for batch in batches:
        if batch["faces"].shape[-1] != edge:
            raise UserError(f"{graph} takes faces of {edge} pixels, the data has {batch['faces'].shape[-1]}.")
        for row in range(len(batch["faces"])):
            feeds = {name: batch[name][row : row + 1].numpy() for name in _INPUTS}
            sound, face = (torch.from_numpy(vectors) for vectors in session.run(["sound", "face"], feeds))
            yield {**_rest(batch, row), **dict(zip(_VECTORS, (sound, face), strict=True))}


def _rest(batch: Mapping[str, Any], row: int) -> Batch:
    """What the batch says of a track beside faces and sound; columns (1, T)."""
    frames, found = batch["faces"].shape[1], dict[str, Any]()
    for name, value in batch.items():
        if name in _INPUTS:
            continue
        if not isinstance(value, Tensor):
            found[name] = value if isinstance(value, str) else value[row]
        else:
            found[name] = value.reshape(len(batch["faces"]), frames)[row : row + 1]
    return found


def _same(loader: Iterable[Batch]) -> Iterable[Batch]:
    return loader


def _listed(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
