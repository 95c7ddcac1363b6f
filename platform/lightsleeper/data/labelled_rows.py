"""What a classifier gets of a text or an image: one part's rows, and how they become a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lightsleeper.data.labels import Labels


class Rows(Dataset):
    """One part: its rows, the class (rows,) and the group (rows,) of each; rows of one group are not independent."""

    def __init__(self, labels: Labels, groups: Labels) -> None:
        self.labels, self.groups = labels, groups
        self.lengths: NDArray[Any] = np.zeros(len(labels))
        """By which a batch is put together."""

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, row: int) -> Tensor:
        """What the model gets of one row."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"inputs": self.inputs(row), "labels": int(self.labels[row]), "groups": int(self.groups[row])}

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        inputs = self.stack([item["inputs"] for item in items])
        return inputs | {name: torch.tensor([item[name] for item in items]) for name in ("labels", "groups")}

    def stack(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


class TextRows(Rows):
    """Texts as tokens."""

    def __init__(self, tokens: Sequence[Sequence[int]], labels: Labels, groups: Labels, pad: int) -> None:
        super().__init__(labels, groups)
        self.tokens = [np.asarray(ids, np.int32) for ids in tokens]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self.pad = pad

    def inputs(self, row: int) -> Tensor:
        return torch.from_numpy(self.tokens[row].astype(np.int64))

    def stack(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(ids) for ids in inputs])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = pad_sequence(inputs, batch_first=True, padding_value=self.pad)
        return {"input_ids": padded, "attention_mask": mask.long()}


class ImageRows(Rows):
    """Images of a table, decoded when they are asked for."""

    def __init__(self, table: Any, column: str, rows: Labels, labels: Labels, prepare: Any) -> None:
        super().__init__(labels, np.arange(len(labels)))
        self.table, self.column, self.rows, self.prepare = table, column, rows, prepare

    def inputs(self, row: int) -> Tensor:
        return self.prepare(self.table[int(self.rows[row])][self.column])

    def stack(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack(inputs)}


class SquareImage:
    """The middle square of an image, (channels, size, size) float32 in [-1, 1]."""

    def __init__(self, size: int, channels: int) -> None:
        self.size, self.mode = size, "RGB" if channels == 3 else "L"

    def __call__(self, image: Any) -> Tensor:
        from PIL import ImageOps

        square = ImageOps.fit(image.convert(self.mode), (self.size, self.size))
        pixels = torch.from_numpy(np.array(square, np.float32)).view(self.size, self.size, -1)
        return pixels.permute(2, 0, 1).contiguous() / 127.5 - 1


class Processed:
    """An image as an image processor of transformers prepares it."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> Tensor:
        return self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
