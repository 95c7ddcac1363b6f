"""Text for language models, from this machine: by default the sources of the Python standard library.

Documents are split by their content, never inside one (few documents: by sections), joined with an end token between
them, and cut into blocks. Every token of a scored document is predicted once.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.batch import BucketBatchSampler
from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import CHOICES_SET, Item, continuations, hash_of
from lightsleeper.data.documents import PARTS, Documents, collect, list_files, read_files, standard_library
from lightsleeper.data.hub_data import check_dataset, need_column, open_dataset
from lightsleeper.data.module import DataModule
from lightsleeper.data.ranges import at_least, between
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.tokens import END, IGNORED, Stream, Tokenized, encode_bytes, encode_with, open_streams
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("LocalText",)


class LocalText(Tokenized, DataModule):
    """Text in blocks of tokens: the standard library's sources, any files, or a Hugging Face dataset.

    Batches: ``input_ids`` and ``targets`` (B, T), the token after each; of evaluation also ``documents`` (B, T), the
    number of the target's document (-1: not scored) and ``bytes`` (B, T), those of the target's text.

    Args:
        path: Folder, file or glob of UTF-8 text, or several. None, without ``dataset``: the Python standard
            library's sources.
        pattern: Which files of a folder, as a glob.
        dataset: Hugging Face dataset instead of files: hub name or local path.
        subset: Configuration of the dataset.
        revision: Branch, tag or commit of the dataset.
        column: Column of the dataset that holds the text of a document.
        tokenizer: Hub name, local folder or GGUF file. None: a token is a byte, 257 different ones.
        context_tokens: Tokens in a block.
        batch_size: Blocks in a training batch.
        eval_batch_size: Blocks in a batch of validation and test.
        val_fraction: Share of the documents used for validation, where a dataset has no such split.
        test_fraction: Share of the documents in the test.
        eval_documents: At most so many documents of validation and test each are scored; None: all.
        eval_document_tokens: The first so many tokens of each are scored, so that no long one outweighs the
            others; None: all.
        choice_items: Multiple-choice items of a second test, ``choices``, made of the test documents
            (`data.choices`); None: no such test.
        workers: Processes that prepare training batches; 0 prepares them in the training process.
        seed: Of the training order. None: the run's seed.

    Example::

        data = LocalText("books/**/*.txt", context_tokens=512)

    Raises:
        UserError: an argument is out of range; files, a column or a tokenizer are missing; there is too little text.
    """

    def __init__(
        self,
        path: str | list[str] | None = None,
        pattern: str = "**/*",
        dataset: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        column: str = "text",
        tokenizer: str | None = None,
        context_tokens: int = 256,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        eval_documents: int | None = 100,
        eval_document_tokens: int | None = 2048,
        choice_items: int | None = None,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if path is not None and dataset is not None:
            raise UserError("give path or dataset, not both.")
        at_least(1, context_tokens=context_tokens, batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(1, eval_documents=eval_documents, eval_document_tokens=eval_document_tokens)
        at_least(1, choice_items=choice_items)
        at_least(0, workers=workers)
        between(0, 0.5, val_fraction=val_fraction, test_fraction=test_fraction)
        if Path(pattern).is_absolute() or not pattern:
            raise UserError(f"pattern is a glob inside a folder, got '{pattern}'.")
        self.paths = [path] if isinstance(path, str) else path
        self.pattern = pattern
        self.dataset, self.subset, self.revision, self.column = dataset, subset, revision, column
        self.tokenizer_name = tokenizer
        self.context_tokens = context_tokens
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.eval_documents, self.eval_document_tokens = eval_documents, eval_document_tokens
        self.choice_items = choice_items
        self.test_names = ("",) if choice_items is None else ("", CHOICES_SET)
        self.workers = workers
        self.seed = seed
        self._streams: dict[str, Stream] | None = None

    def check(self) -> None:
        """Refuse files, a dataset or a tokenizer that are not there."""
        if self.dataset is not None:
            check_dataset(self.dataset)
        else:
            self._files()
        self.vocab_size  # noqa: B018 - opens the tokenizer

    def load(self) -> None:
        self._open()
        if self.choice_items is not None:
            self._choices  # noqa: B018 - that there are enough, and that they fit, is known before the training

    @property
    def end(self) -> int:
        """The token that ends a document, and is the past of the first one."""
        if self.tokenizer_name is None:
            return END
        for token in (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id, self.tokenizer.bos_token_id):
            if token is not None:
                return int(token)
        raise UserError(f"tokenizer: '{self.tokenizer_name}' has no token that ends a document.")

    def _files(self) -> list[Path]:
        return standard_library() if self.paths is None else list_files(self.paths, self.pattern)

    def _parts(self) -> dict[str, Documents]:
        """Documents by part; those of a part that the source does not have are taken from ``train``."""
        if self.dataset is None:
            found = {"train": read_files(self._files())}
        else:
            found = {}
            for part, rows in open_dataset(self.dataset, self.subset, self.revision).items():
                need_column(rows, self.column, self.dataset)
                texts = (("" if text is None else str(text)).encode() for text in rows[self.column])
                found[part] = collect({f"{part}[{row}]": text for row, text in enumerate(texts)})
        self._documents = found
        return found

    def _open(self) -> dict[str, Stream]:
        if self._streams is not None:
            return self._streams
        found = self._parts()
        parts = {part: documents.all for part, documents in found.items()}
        if missing := [part for part in PARTS if part not in found]:
            own = found["train"].split(self.val_fraction, self.test_fraction)
            given = [part for part in PARTS if part not in missing]
            parts |= {part: own[part] for part in missing}
            # What a split of the dataset holds already is not needed from `train`.
            parts["train"] = own["train"] + tuple(d for part in given if part != "train" for d in own[part])
        seen = {document.digest for part in ("val", "test") for document in parts[part]}
        self._removed = sum(document.digest in seen for document in parts["train"])
        parts["train"] = tuple(document for document in parts["train"] if document.digest not in seen)
        if self.tokenizer_name is None:
            streams = open_streams(parts, self.end, encode_bytes, "bytes")
        else:
            key = content_hash(self.tokenizer.backend_tokenizer.to_str())
            streams = open_streams(parts, self.end, encode_with(self.tokenizer), key)
        if len(streams["train"].tokens) <= self.context_tokens:
            raise UserError(
                f"{len(streams['train'].tokens)} tokens of training text are no block of {self.context_tokens}: "
                "give more text, or fewer context_tokens."
            )
        self._test_documents = parts["test"]
        self._parts_hash = content_hash({part: [d.digest for d in documents] for part, documents in parts.items()})
        self._streams = streams
        return streams

    def train_dataloader(self) -> DataLoader:
        rows = _Blocks(self._open()["train"].tokens, self.context_tokens)
        sampler = BucketBatchSampler(np.zeros(len(rows)), self.batch_size, run_seed(self.seed))
        return DataLoader(rows, batch_sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("val")

    def test_dataloader(self) -> Any:
        """One loader of text; with ``choice_items`` one of choices after it."""
        text = self._evaluation("test")
        if self.choice_items is None:
            return text
        return [text, self._choices.loader(self.eval_batch_size)]

    @cached_property
    def items(self) -> list[Item]:
        """The multiple-choice items, of all documents of the test."""
        self._open()
        return [] if self.choice_items is None else continuations(self._test_documents, self.choice_items)

    @cached_property
    def _choices(self) -> ChoiceRows:
        return ChoiceRows(self.items, self.tokenizer, self.context_tokens)

    def _evaluation(self, part: str) -> DataLoader:
        stream = self._open()[part]
        rows = ScoredBlocks(stream, self.context_tokens, self.end, self.eval_documents, self.eval_document_tokens)
        return DataLoader(rows, self.eval_batch_size)

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, and what was left out."""
        streams = self._open()
        counts: dict[str, Any] = {
            part: {"documents": len(stream), "tokens": len(stream.tokens), "bytes": int(stream.sizes.sum())}
            for part, stream in streams.items()
        }
        for part in ("val", "test"):
            scored = self._evaluation(part).dataset
            assert isinstance(scored, ScoredBlocks)
            counts[part] |= {"scored_documents": scored.documents, "scored_tokens": scored.scored}
        identity = [self._parts_hash, self.tokenizer_name, self.context_tokens]
        if self.choice_items is not None:
            counts["test"] |= {"choice_items": len(self.items), "choice_contexts_cut": self._choices.cut}
            identity.append(hash_of(self.items))
        counts["duplicates_left_out"] = sum(d.duplicates for d in self._documents.values())
        counts["files_without_text"] = sum(d.not_text for d in self._documents.values())
        sections = any(documents.sections for documents in self._documents.values())
        return {
            "hash": content_hash(identity),
            "protocol": "split by section of few documents" if sections else "split by document",
            "counts": counts,
            "overlap": {"train documents left out, being in another part": self._removed},
        }


class _Blocks(Dataset):
    """Training blocks: all tokens but the last few, which fill no block."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * self.context
        window = torch.from_numpy(self.tokens[start : start + self.context + 1].astype(np.int64))
        return {"input_ids": window[:-1], "targets": window[1:]}


class ScoredBlocks(Dataset):
    """Evaluation blocks of the first documents of a stream; the last one is padded.

    Args:
        stream: of a part.
        context: tokens in a block.
        end: the token before the first document and between documents.
        most: documents at most.
        longest: tokens of each document at most, its end included.
    """

    def __init__(self, stream: Stream, context: int, end: int, most: int | None, longest: int | None) -> None:
        self.context = context
        self.documents = len(stream) if most is None else min(most, len(stream))
        tokens, documents, sizes = [np.array([end])], [np.array([-1])], [np.array([0])]
        for number in range(self.documents):
            start, stop = (int(place) for place in stream.starts[number : number + 2])
            whole = longest is None or stop - start <= longest
            stop = stop if whole else start + int(longest or 0)
            tokens += [stream.tokens[start:stop], *([] if whole else [np.array([end])])]
            sizes += [stream.sizes[start:stop], *([] if whole else [np.array([0])])]
            documents += [np.full(stop - start, number), *([] if whole else [np.array([-1])])]
        self._tokens, self._documents, self._sizes = (
            torch.from_numpy(np.concatenate([part.astype(np.int64) for part in parts]))
            for parts in (tokens, documents, sizes)
        )
        self.scored = int((self._documents >= 0).sum())

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self.context)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        span = slice(index * self.context, (index + 1) * self.context)
        targets, documents, sizes = (part[1:][span] for part in (self._tokens, self._documents, self._sizes))
        missing = self.context - len(targets)
        inputs = self._tokens[:-1][span]
        targets = targets.masked_fill(documents < 0, IGNORED)
        pad = torch.nn.functional.pad
        return {
            "input_ids": pad(inputs, (0, missing), value=int(self._tokens[0])),
            "targets": pad(targets, (0, missing), value=IGNORED),
            "documents": pad(documents, (0, missing), value=-1),
            "bytes": pad(sizes, (0, missing)),
        }
