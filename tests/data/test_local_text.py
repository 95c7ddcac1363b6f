"""Text as blocks of tokens: which documents, which parts, which tokens are scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.documents import collect, list_files, read_files, standard_library
from lightsleeper.data.local_text import LocalText, ScoredBlocks
from lightsleeper.data.tokens import END, IGNORED, Stream, byte_sizes, byte_tokenizer, encode_bytes
from lightsleeper.errors import UserError
from mistakes import no_hub
from tiny_hosts import write_texts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


def ready(path: Path | None, **arguments: Any) -> LocalText:
    if path is not None:
        arguments["path"] = str(path)
    data = LocalText(**{"context_tokens": 32, "batch_size": 4, "eval_batch_size": 4, **arguments})
    data.check()
    data.setup()
    return data


def text_of(data: LocalText, part: str) -> bytes:
    stream = data._open()[part]
    return bytes(int(token) for token in stream.tokens if token != END)


def test_every_document_is_in_one_part(folder: Path) -> None:
    data = ready(folder)
    texts = {file.read_bytes() for file in folder.iterdir()}
    found: list[bytes] = []
    for stream in data._open().values():
        for start, stop in zip(stream.starts[:-1], stream.starts[1:], strict=True):
            assert stream.tokens[stop - 1] == END
            found.append(bytes(stream.tokens[start : stop - 1].astype(np.uint8)))
    assert sorted(found) == sorted(texts)
    counts = data.summary()["counts"]
    assert [counts[part]["documents"] for part in ("train", "val", "test")] == [24, 3, 3]
    assert sum(counts[part]["bytes"] for part in ("train", "val", "test")) == sum(map(len, texts))


def test_the_split_depends_on_contents_and_not_on_names_or_places(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        (other / f"x{number}.md").write_bytes(file.read_bytes())
    assert ready(folder).summary()["hash"] == ready(other).summary()["hash"]
    (other / "x0.md").write_text("something else")
    assert ready(folder).summary()["hash"] != ready(other).summary()["hash"]


def test_duplicates_and_what_is_no_text_are_left_out_and_counted(folder: Path) -> None:
    (folder / "copy.txt").write_bytes((folder / "03.txt").read_bytes())
    (folder / "image.png").write_bytes(b"\x89PNG\x00\xff")
    (folder / "empty.txt").touch()
    (folder / ".hidden").write_text("not read")
    counts = ready(folder).summary()["counts"]
    assert counts["duplicates_left_out"] == 1
    assert counts["files_without_text"] == 2
    assert sum(counts[part]["documents"] for part in ("train", "val", "test")) == 30


def test_one_file_is_split_by_section(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a long play, é\n" for number in range(2000))
    (tmp_path / "play.txt").write_text(text)
    data = ready(tmp_path / "play.txt")
    assert data.summary()["protocol"] == "split by section of few documents"
    counts = data.summary()["counts"]
    assert sum(counts[part]["bytes"] for part in ("train", "val", "test")) == len(text.encode())
    assert all(counts[part]["documents"] > 5 for part in ("val", "test"))
    assert text_of(data, "test").decode().startswith("line ")  # cut at line ends


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("aé\n€😀", min_size=1, max_size=80), min_size=1, max_size=4))
def test_sections_are_whole_characters_and_lose_nothing(texts: list[str]) -> None:
    from lightsleeper.data.documents import Document, _sections

    for text in texts:
        pieces = [section.content for section in _sections(Document("x", text.encode()), 3)]
        assert b"".join(pieces) == text.encode()
        for piece in pieces:
            piece.decode()


def test_training_blocks_hold_the_token_after_each(folder: Path) -> None:
    data = ready(folder)
    stream = data._open()["train"].tokens.astype(np.int64)
    seen = []
    for batch in data.train_dataloader():
        assert batch["input_ids"].shape[1] == 32
        assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])
        seen += [tuple(row) for row in batch["input_ids"].tolist()]
    blocks = (len(stream) - 1) // 32
    assert sorted(seen) == sorted(tuple(row) for row in stream[: blocks * 32].reshape(blocks, 32).tolist())


def test_the_order_is_a_pure_function_of_seed_and_epoch(folder: Path) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = ready(folder, seed=seed).train_dataloader()
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        return [batch["input_ids"].flatten().tolist() for batch in loader]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_every_token_of_a_scored_document_is_predicted_once(folder: Path) -> None:
    data = ready(folder, eval_document_tokens=None)
    stream = data._open()["test"]
    targets = [batch["targets"] for batch in data.test_dataloader()]
    documents = [batch["documents"] for batch in data.test_dataloader()]
    scored = torch.cat(targets).flatten()[torch.cat(documents).flatten() >= 0]
    assert torch.equal(scored, torch.from_numpy(stream.tokens.astype(np.int64)))
    sizes = torch.cat([batch["bytes"] for batch in data.test_dataloader()]).sum()
    assert int(sizes) == len(text_of(data, "test"))
    first = next(iter(data.test_dataloader()))
    assert int(first["input_ids"][0, 0]) == END


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 8),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 12),
)
def test_scored_blocks_hold_the_start_of_each_document(
    lengths: list[int], context: int, most: int | None, longest: int | None
) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 256, length) for length in lengths]
    tokens = np.concatenate([part for text in texts for part in (text, [END])])
    sizes = np.concatenate([part for text in texts for part in (np.ones(len(text)), [0])]).astype(np.uint16)
    stream = Stream(tokens, sizes, np.cumsum([0, *(length + 1 for length in lengths)]))
    blocks = ScoredBlocks(stream, context, END, most, longest)
    rows = [blocks[index] for index in range(len(blocks))]
    assert all(len(row[name]) == context for row in rows for name in row)
    flat = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    kept = flat["documents"] >= 0
    assert torch.equal(kept, flat["targets"] != IGNORED)
    assert int(flat["bytes"][~kept].sum()) == 0
    for number, text in enumerate(texts[:most]):
        whole = [*text.tolist(), END][:longest]
        here = flat["documents"] == number
        assert flat["targets"][here].tolist() == whole
        assert flat["input_ids"][here].tolist() == [END, *whole[:-1]]  # no past but the end of the last document
        assert int(flat["bytes"][here].sum()) == min(len(text), len(whole))
    assert int(flat["documents"].max()) == len(texts[:most]) - 1


def test_the_standard_library_is_found_without_its_tests() -> None:
    files = standard_library()
    assert len(files) > 300
    assert {"ast.py", "argparse.py", "threading.py"} <= {file.name for file in files}
    parts = {part for file in files for part in file.parts[-3:]}
    assert not {"test", "tests", "site-packages", "encodings"} & parts
    documents = read_files(files[:40])
    assert [d.digest for d in documents.all] == sorted(d.digest for d in documents.all)


def test_the_default_needs_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    files = standard_library()[:60]
    monkeypatch.setattr("lightsleeper.data.local_text.standard_library", lambda: files)
    data = ready(None)
    assert data.summary()["counts"]["train"]["documents"] > 40
    assert data.vocab_size == 257


def test_the_second_opening_reads_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(folder).summary()
    monkeypatch.setattr("lightsleeper.data.local_text.encode_bytes", None)
    second = ready(folder)
    assert second.summary() == first
    assert isinstance(second._open()["train"].tokens, np.memmap)


def test_a_damaged_cache_says_what_to_delete(folder: Path, cache: Path) -> None:
    ready(folder)
    next(cache.glob("text/*/val-tokens.npy")).write_bytes(b"no array")
    with pytest.raises(UserError, match="is damaged .* Delete that folder"):
        ready(folder)


def test_an_interrupted_encoding_is_done_again(folder: Path, cache: Path) -> None:
    first = ready(folder).summary()
    next(cache.glob("text/*/text.json")).unlink()
    next(cache.glob("text/*/val-tokens.npy")).write_bytes(b"half")
    assert ready(folder).summary() == first


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_the_byte_tokenizer_gives_bytes(text: str) -> None:
    tokenizer = TOKENIZER
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode()), clean_up_tokenization_spaces=False) == text
    assert tokenizer.eos_token_id == END
    assert len(tokenizer) == 257


TOKENIZER = byte_tokenizer()


def tokenizer_folder(folder: Path, end: bool = True) -> Path:
    """A small byte-pair tokenizer with blanks inside its tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<end>"] if end else []
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["def return value self name " * 20], trainer)
    options = {"eos_token": "<end>"} if end else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return folder


def test_a_tokenizers_tokens_count_the_bytes_they_stand_for(folder: Path, tmp_path: Path) -> None:
    (folder / "accents.txt").write_text("ça va, 😀 où? naïve\n" * 3)
    data = ready(folder, tokenizer=str(tokenizer_folder(tmp_path / "tokenizer")))
    assert data.vocab_size == len(data.tokenizer) > 257
    lengths = {file.read_text(): len(file.read_bytes()) for file in folder.iterdir()}
    for stream in data._open().values():
        for start, stop in zip(stream.starts[:-1], stream.starts[1:], strict=True):
            text = data.tokenizer.decode(stream.tokens[start : stop - 1].tolist())
            assert int(stream.sizes[start:stop].sum()) == lengths[text]
            assert int(stream.tokens[stop - 1]) == data.tokenizer.eos_token_id
    train = data._open()["train"]
    assert len(train.tokens) < 0.8 * train.sizes.sum()  # it joins letters


@pytest.mark.parametrize(
    ("text", "offsets", "sizes"),
    [
        ("", [], []),
        ("ab", [(0, 1), (1, 2)], [1, 1]),
        ("é", [(0, 1), (0, 1)], [2, 0]),  # two tokens for one character
        ("a b ", [(0, 1), (2, 3)], [1, 3]),  # blanks that no token covers
        ("😀x", [(0, 1), (0, 1), (1, 2)], [4, 0, 1]),
    ],
)
def test_bytes_are_counted_once(text: str, offsets: list[tuple[int, int]], sizes: list[int]) -> None:
    assert byte_sizes(text, offsets).tolist() == sizes


def test_bytes_need_no_copy_to_become_tokens() -> None:
    ((tokens, sizes),) = encode_bytes(["aé".encode()])
    assert tokens.tolist() == [97, 195, 169]
    assert sizes.tolist() == [1, 1, 1]


def write_rows(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))


def test_a_dataset_keeps_its_own_parts_and_gets_those_it_lacks(tmp_path: Path) -> None:
    train = [f"document {number} for training, of some words" for number in range(40)]
    test = [f"document {number} for the test" for number in range(25)]
    write_rows(tmp_path / "set" / "train.jsonl", [*train, test[0]])
    write_rows(tmp_path / "set" / "test.jsonl", test)
    data = ready(None, dataset=str(tmp_path / "set"), column="body")
    assert data.summary()["counts"]["test"]["documents"] == 25
    assert data.summary()["counts"]["val"]["documents"] == 4
    assert data.summary()["overlap"] == {"train documents left out, being in another part": 1}
    whole = text_of(data, "train") + text_of(data, "val")
    assert all(text.encode() in whole for text in train)
    assert b"for the test" not in whole


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"path": "nowhere"}, "nowhere does not exist"),
        ({"path": "nowhere/*.txt"}, r"nowhere/\*.txt does not exist"),
        ({"path": "empty"}, "folder empty has no file"),
        ({"path": "binary"}, "none of 1 documents is UTF-8 text"),
        ({"path": "short"}, "are no block of 256|too few"),
        ({"path": "texts", "pattern": "*.rst"}, r"no file that fits '\*.rst'"),
        ({"path": "texts", "tokenizer": "nowhere/tok"}, "tokenizer: cannot load 'nowhere/tok'"),
        ({"path": "texts", "tokenizer": "endless"}, "no token that ends a document"),
        ({"path": "texts", "dataset": "x"}, "path or dataset"),
        ({"dataset": "./nothing"}, "./nothing does not exist"),
        ({"dataset": "nothing.csv"}, "nothing.csv does not exist"),
        ({"dataset": "nobody/nothing"}, "cannot open the dataset 'nobody/nothing'"),
        ({"dataset": "table.csv"}, "has no column 'text'. Did you mean 'texts'"),
        ({"context_tokens": 0}, "context_tokens must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"val_fraction": 0.5}, "val_fraction must lie between 0 and 0.5, got 0.5"),
        ({"test_fraction": -0.1}, "test_fraction"),
        ({"eval_documents": 0}, "eval_documents"),
        ({"choice_items": 0}, "choice_items must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: dict[str, Any], expected: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    no_hub(monkeypatch)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "x").write_bytes(b"\x00")
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "x.txt").write_text("few words")
    (tmp_path / "table.csv").write_text("texts,label\na,b\n")
    if arguments.get("tokenizer") == "endless":
        tokenizer_folder(tmp_path / "endless", end=False)
    with pytest.raises(UserError, match=expected) as caught:
        ready(arguments.pop("path", None), **{"context_tokens": 256, **arguments})
    assert "\n" not in str(caught.value)


def test_globs_and_several_folders_are_pooled(folder: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "more", files=3, seed=5)
    files = list_files([str(folder / "0*.txt"), str(tmp_path / "more"), str(folder / "01.txt")])
    assert len(files) == 13
    assert files == sorted(files)
    assert len(collect({str(file): file.read_bytes() for file in files}).all) > 0


def test_choices_are_a_second_test_made_of_the_test_documents_alone(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "long", words=500)
    data, plain = ready(folder, choice_items=20, context_tokens=96), ready(folder, context_tokens=96)
    text, choices = data.test_dataloader()
    assert list(data.test_names) == ["", "choices"]
    assert sum(len(batch["answers"]) for batch in choices) == len(data.items) == 20
    held_out = text_of(data, "test").decode()
    assert all(choice in held_out for item in data.items for choice in item.choices)
    (first,), (again,) = next(iter(text))["input_ids"][:1], next(iter(plain.test_dataloader()))["input_ids"][:1]
    assert torch.equal(first, again)
    counts = data.summary()["counts"]["test"]
    assert counts.pop("choice_items") == 20
    assert 0 < counts.pop("choice_contexts_cut") <= 20  # some contexts and choices have more than 96 bytes
    assert counts == plain.summary()["counts"]["test"]
    assert data.summary()["hash"] != plain.summary()["hash"]
    assert ready(folder, choice_items=19, context_tokens=96).summary()["hash"] != data.summary()["hash"]


def test_too_few_choices_are_said_before_any_training(folder: Path) -> None:
    with pytest.raises(UserError, match="multiple-choice items, not 500: ask for fewer"):
        ready(folder, choice_items=500)
    with pytest.raises(UserError, match="longest choice needs more tokens than 16"):
        ready(write_texts(folder / "long", words=500), choice_items=20, context_tokens=16)
