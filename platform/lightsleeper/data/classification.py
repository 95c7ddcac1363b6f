"""Texts or images with a label: a Hugging Face dataset, a local folder, a table, or a built-in task for texts.

Parts that the source does not have are drawn from its training rows by a hash: of the text, so that equal texts stay
together, or of the row's number.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lightsleeper.data.batch import BucketBatchSampler
from lightsleeper.data.documents import PARTS, read_files, standard_library
from lightsleeper.data.hub_data import check_dataset, need_column, open_dataset, open_processor
from lightsleeper.data.labelled_rows import ImageRows, Processed, Rows, SquareImage, TextRows
from lightsleeper.data.labels import hash_of, parts_of, read_labels
from lightsleeper.data.module import DataModule
from lightsleeper.data.ranges import at_least, between
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.statements import KINDS, statement_rows
from lightsleeper.data.tokens import END, Tokenized
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("LabelledText", "LabelledImages")

STATEMENTS = {"train": 24_000, "val": 2_400, "test": 2_400}
PAD = 0  # a byte that no text holds


class _Labelled(DataModule):
    """What texts and images share: loaders, and what the record says."""

    def __init__(
        self, batch_size: int, eval_batch_size: int, val_fraction: float, test_fraction: float, workers: int
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(0, workers=workers)
        between(0, 0.5, val_fraction=val_fraction, test_fraction=test_fraction)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.workers = workers
        self.seed: int | None = None
        self.classes: list[str] = []
        """Names of the classes; known after ``setup``."""
        self._rows: dict[str, Rows] = {}

    def _read(self) -> dict[str, Rows]:
        """All parts; sets ``classes``."""
        raise NotImplementedError

    def load(self) -> None:
        self._open()

    def _open(self) -> dict[str, Rows]:
        if not self._rows:
            self._rows = self._read()
        return self._rows

    def train_dataloader(self) -> DataLoader:
        rows = self._open()["train"]
        sampler = BucketBatchSampler(rows.lengths, self.batch_size, run_seed(self.seed))
        keep = self.workers > 0
        return DataLoader(
            rows, batch_sampler=sampler, collate_fn=rows.collate, num_workers=self.workers, persistent_workers=keep
        )

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def _evaluation(self, part: str) -> DataLoader:
        rows = self._open()[part]
        return DataLoader(rows, self.eval_batch_size, collate_fn=rows.collate)

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity and sizes."""
        counts = {}
        for part, rows in self._open().items():
            of_class = np.bincount(rows.labels, minlength=len(self.classes)).tolist()
            counts[part] = {"rows": len(rows), "groups": len(np.unique(rows.groups))}
            counts[part] |= {f"of '{name}'": count for name, count in zip(self.classes, of_class, strict=True)}
        return {"hash": self._hash(), "protocol": f"{len(self.classes)} classes", "counts": counts, "overlap": {}}

    def _hash(self) -> str:
        raise NotImplementedError


class LabelledText(Tokenized, _Labelled):
    """Texts to classify: a Hugging Face dataset, a folder of tables, a table, or the built-in task.

    The built-in task (``dataset: null``): which kind of Python statement comes next, from the code before it; sources
    of the standard library, split by file, eight kinds equally often (`data.statements`).

    Batches: ``input_ids`` and ``attention_mask`` (B, T), ``labels`` and ``groups`` (B,).

    Args:
        dataset: Hub name, folder of train/validation/test tables, table (csv, tsv, jsonl, json, parquet), or folder
            of ``save_to_disk``. None: the built-in task.
        subset: Configuration of the dataset.
        revision: Branch, tag or commit of the dataset.
        text_column: Column of the text.
        label_column: Column of the label.
        tokenizer: Hub name, local folder or GGUF file. None: bytes, after a token that stands for the whole text.
        max_length: Tokens of a text at most; the rest is cut off. The built-in task shows as much code.
        batch_size: Texts in a training batch, of similar length.
        eval_batch_size: Texts in a batch of validation and test.
        val_fraction: Share of the training rows used for validation, where there is no such split.
        test_fraction: Share of the training rows used for the test, where there is none.
        split_seed: Another seed draws other rows for them. The built-in task is split by file and has none.
        workers: Processes that prepare training batches; 0 prepares them in the training process.
        seed: Of the training order. None: the run's seed.

    Example::

        data = LabelledText("reviews.csv", tokenizer="distilbert-base-uncased")

    Raises:
        UserError: an argument is out of range; a file, column or tokenizer is missing; there is too little text.
    """

    def __init__(
        self,
        dataset: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        tokenizer: str | None = None,
        max_length: int = 128,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, val_fraction, test_fraction, workers)
        at_least(8, max_length=max_length)
        self.dataset, self.subset, self.revision = dataset, subset, revision
        self.text_column, self.label_column = text_column, label_column
        self.tokenizer_name = tokenizer
        self.max_length = max_length
        self.split_seed = split_seed
        self.seed = seed

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest text."""
        return self.max_length

    def check(self) -> None:
        """Refuse files, a dataset or a tokenizer that are not there."""
        check_dataset(self.dataset) if self.dataset is not None else standard_library()
        self.vocab_size  # noqa: B018 - opens the tokenizer

    @property
    def pad_token_id(self) -> int:
        given = None if self.tokenizer_name is None else self.tokenizer.pad_token_id
        return PAD if given is None else int(given)

    def _encode(self, texts: list[str]) -> list[Sequence[int]]:
        if self.tokenizer_name is None:
            return [[END, *text.encode()[: self.max_length - 1]] for text in texts]
        return self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]

    def _read(self) -> dict[str, Rows]:
        if self.dataset is None:
            fractions = (self.val_fraction, self.test_fraction)
            built_in = statement_rows(read_files(standard_library()), self.max_length - 1, STATEMENTS, fractions)
            texts = {part: [text for text, _, _ in rows] for part, rows in built_in.items()}
            labels = {part: np.array([KINDS.index(kind) for _, kind, _ in rows]) for part, rows in built_in.items()}
            groups = {part: np.unique([file for *_, file in rows], return_inverse=True)[1]
                      for part, rows in built_in.items()}  # fmt: skip
            self.classes = list(KINDS)
        else:
            tables = open_dataset(self.dataset, self.subset, self.revision)
            for table in tables.values():
                need_column(table, self.text_column, self.dataset)
            self.classes, labels = read_labels(tables, self.label_column, self.dataset)
            every = {
                part: ["" if text is None else str(text) for text in table[self.text_column]]
                for part, table in tables.items()
            }
            keys = {part: [hash_of(self.split_seed, text) for text in rows] for part, rows in every.items()}
            chosen = parts_of(keys, labels, self.val_fraction, self.test_fraction)
            texts = {part: [every[source][row] for row in rows] for part, (source, rows) in chosen.items()}
            labels = {part: labels[source][rows] for part, (source, rows) in chosen.items()}
            groups = {part: np.arange(len(rows)) for part, rows in texts.items()}
        self._digests = {part: hash_of(*rows, *labels[part].tolist()) for part, rows in texts.items()}
        return {
            part: TextRows(self._encode(texts[part]), labels[part], groups[part], self.pad_token_id) for part in PARTS
        }

    def _hash(self) -> str:
        return content_hash([self.classes, self._digests, self.tokenizer_name, self.max_length])


class LabelledImages(_Labelled):
    """Images to classify: a Hugging Face dataset, or a folder with one folder of images per class.

    Batches: ``pixel_values`` (B, channels, height, width), ``labels`` and ``groups`` (B,).

    Args:
        dataset: Hub name, or a folder: with one folder of images per class, these perhaps below train, validation
            and test; or one of ``save_to_disk``.
        subset: Configuration of the dataset.
        revision: Branch, tag or commit of the dataset.
        image_column: Column of the image.
        label_column: Column of the label.
        processor: Hub name or local folder of the image processor that a pre-trained model wants. None: the middle
            square at ``image_size``, values from -1 to 1.
        image_size: Height and width in pixels, without ``processor``.
        channels: 3 is colour, 1 is grey, without ``processor``.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        val_fraction: Share of the training rows used for validation, where there is no such split.
        test_fraction: Share of the training rows used for the test, where there is none.
        split_seed: Another seed draws other rows for them.
        workers: Processes that prepare training batches; 0 prepares them in the training process.
        seed: Of the training order. None: the run's seed.

    Example::

        data = LabelledImages("photographs", image_size=64)

    Raises:
        UserError: an argument is out of range; a folder, column or processor is missing; there are too few images.
    """

    def __init__(
        self,
        dataset: str,
        subset: str | None = None,
        revision: str | None = None,
        image_column: str = "image",
        label_column: str = "label",
        processor: str | None = None,
        image_size: int = 64,
        channels: int = 3,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, val_fraction, test_fraction, workers)
        if channels not in (1, 3):
            raise UserError(f"channels must be 3 (colour) or 1 (grey), got {channels}.")
        at_least(1, image_size=image_size)
        self.dataset, self.subset, self.revision = dataset, subset, revision
        self.image_column, self.label_column = image_column, label_column
        self.processor = processor
        self.image_size, self.channels = image_size, channels
        self.split_seed = split_seed
        self.seed = seed

    def check(self) -> None:
        """Refuse a folder or a processor that is not there."""
        check_dataset(self.dataset)
        self._prepare  # noqa: B018 - opens the processor

    @cached_property
    def _prepare(self) -> Any:
        """PIL image to a tensor (channels, height, width)."""
        if self.processor is None:
            return SquareImage(self.image_size, self.channels)
        return Processed(open_processor(self.processor))

    def save_tokenizer(self, folder: Path) -> None:
        """Write the image processor beside an exported model."""
        if isinstance(self._prepare, Processed):
            self._prepare.processor.save_pretrained(folder)

    def _read(self) -> dict[str, Rows]:
        from datasets import Image

        tables = open_dataset(self.dataset, self.subset, self.revision)
        for table in tables.values():
            need_column(table, self.image_column, self.dataset)
            if not isinstance(table.features[self.image_column], Image):
                raise UserError(f"{self.dataset}: column '{self.image_column}' holds no images.")
        self.classes, labels = read_labels(tables, self.label_column, self.dataset)
        keys = {part: [hash_of(self.split_seed, row) for row in range(len(table))] for part, table in tables.items()}
        chosen = parts_of(keys, labels, self.val_fraction, self.test_fraction)
        self._digests = {part: hash_of(tables[source]._fingerprint, *rows) for part, (source, rows) in chosen.items()}
        return {
            part: ImageRows(tables[source], self.image_column, rows, labels[source][rows], self._prepare)
            for part, (source, rows) in chosen.items()
        }

    def _hash(self) -> str:
        return content_hash([self.classes, self._digests, self.processor, self.image_size, self.channels])
