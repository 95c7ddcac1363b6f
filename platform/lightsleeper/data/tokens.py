"""Documents as one stream of tokens per part, kept in the cache: tokens, the bytes behind each, where documents start.

Without a tokenizer a token is a byte, and END (256) ends a document. ``byte_tokenizer`` is the same as a tokenizer of
transformers, so that an exported model carries it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lightsleeper.data.documents import Document
from lightsleeper.data.hub_data import open_tokenizer
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, replacing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = 256
END_TEXT = "<|endoftext|>"
BYTE_TOKENS = 257
IGNORED = -100  # a target that is not scored
VERSION = 1  # of the files in the cache
ARRAYS = ("tokens", "sizes", "starts")

Encode = Callable[[Sequence[bytes]], list[tuple[NDArray[Any], NDArray[Any]]]]
"""UTF-8 texts to tokens and the bytes of text behind each, both (tokens,)."""


class Tokenized:
    """What data modules of text share: a tokenizer of hub, folder or GGUF file; without one a token is a byte."""

    tokenizer_name: str | None

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        return byte_tokenizer() if self.tokenizer_name is None else open_tokenizer(self.tokenizer_name)

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        return BYTE_TOKENS if self.tokenizer_name is None else len(self.tokenizer)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer beside an exported model."""
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Stream:
    """The documents of one part, one after the other."""

    tokens: NDArray[Any]
    """(tokens,), each document followed by the end token."""
    sizes: NDArray[Any]
    """Bytes of text behind each token, (tokens,); 0 for the end token."""
    starts: NDArray[np.int64]
    """First token of each document, and the number of all tokens."""

    def __len__(self) -> int:
        """Documents."""
        return len(self.starts) - 1


def open_streams(parts: dict[str, tuple[Document, ...]], end: int, encode: Encode, key: str) -> dict[str, Stream]:
    """The streams of ``parts``, encoded first where the cache does not hold them.

    ``key`` names how ``encode`` works. Raises UserError where the cache cannot be written.
    """
    digests = {part: [document.digest for document in documents] for part, documents in parts.items()}
    folder = cache_folder("text", content_hash({"version": VERSION, "encode": key, "end": end, "parts": digests}))
    done = folder / "text.json"
    if not done.exists():
        with FileLock(folder / "lock"):
            if not done.exists():
                for part, documents in parts.items():
                    _write(folder, part, _encode(documents, end, encode))
                with replacing(done) as temporary:
                    temporary.write_text(json.dumps({part: len(documents) for part, documents in parts.items()}))
    try:
        return {part: Stream(*(np.load(_file(folder, part, name), mmap_mode="r") for name in ARRAYS)) for part in parts}
    except (OSError, ValueError) as error:
        raise UserError(f"the text in {folder} is damaged ({error}). Delete that folder to encode it again.") from None


def _encode(documents: Sequence[Document], end: int, encode: Encode) -> Stream:
    encoded = encode([document.content for document in documents])
    lengths = [len(tokens) + 1 for tokens, _ in encoded]
    last = np.array([end], np.int64)
    tokens = np.concatenate([part for ids, _ in encoded for part in (ids, last)])
    sizes = np.concatenate([part for _, sizes in encoded for part in (sizes, np.zeros(1, np.int64))])
    kind = np.uint16 if max(int(tokens.max()), end) < 2**16 else np.uint32
    return Stream(tokens.astype(kind), sizes.astype(np.uint16), np.cumsum([0, *lengths], dtype=np.int64))


def _write(folder: Path, part: str, stream: Stream) -> None:
    for name in ARRAYS:
        with replacing(_file(folder, part, name)) as temporary:
            np.save(temporary, getattr(stream, name))


def _file(folder: Path, part: str, name: str) -> Path:
    return folder / f"{part}-{name}.npy"


def encode_bytes(texts: Sequence[bytes]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Every byte is a token."""
    return [(np.frombuffer(text, np.uint8), np.ones(len(text), np.uint8)) for text in texts]


def encode_with(tokenizer: "PreTrainedTokenizerFast") -> Encode:
    """Tokens of ``tokenizer``, without its special ones."""

    def encode(texts: Sequence[bytes]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        decoded = [text.decode("utf-8") for text in texts]
        found = tokenizer(decoded, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
        pairs = zip(decoded, found["input_ids"], found["offset_mapping"], strict=True)
        return [(np.array(ids, np.int64), byte_sizes(text, offsets)) for text, ids, offsets in pairs]

    return encode


def byte_sizes(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Bytes of UTF-8 that each token adds to those before it: they sum to the bytes of ``text``.

    ``offsets``: characters from and to. Of several tokens for one character the first has its bytes; blanks that no
    token covers go to the next one, those at the end to the last.
    """
    if not offsets:
        return np.zeros(0, np.int64)
    lengths = np.array([len(character.encode()) for character in text], np.int64)
    upto = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.maximum.accumulate(upto[np.array(offsets)[:, 1]])
    ends[-1] = upto[-1]
    return np.diff(ends, prepend=0)


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """Bytes as tokens, END after them, as a tokenizer that transformers loads from a folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {letter: byte for byte, letter in bytes_to_unicode().items()}  # byte-level letters, no merges
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_TEXT, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TEXT, bos_token=END_TEXT)
