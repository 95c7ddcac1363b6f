"""Labelled texts and images: parts, classes, batches, the built-in task, bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightsleeper.data.classification import LabelledImages, LabelledText, SquareImage, parts_of
from lightsleeper.data.documents import Document, collect
from lightsleeper.data.statements import KINDS, statement_rows, statements
from lightsleeper.data.tokens import END
from lightsleeper.errors import UserError
from mistakes import no_hub
from tiny_hosts import write_images, write_table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return tmp_path / "cache"


def ready(data: LabelledText | LabelledImages) -> Any:
    data.check()
    data.setup()
    return data


SOURCE = b'''"""A module."""
import os


def load(name):
    """Not a statement of a kind."""
    total = 0
    for line in open(name):
        if not line:
            raise ValueError(name)
        elif line:
            print(line)
        total += 1
    try:
        pass
    finally:
        os.close(0)
    return total
'''


def test_statements_are_found_with_the_code_before_them() -> None:
    found = list(statements(SOURCE, 40))
    assert sorted(kind for _, kind in found) == sorted(
        ["def", "assign", "for", "if", "raise", "call", "try", "call", "return"]
    )
    for before, kind in found:
        assert before in SOURCE.decode()
        after = SOURCE.decode()[SOURCE.decode().index(before) + len(before) :]
        starts = {"assign": "total =", "call": ("print(", "os.close(")}.get(kind, kind)
        assert after.startswith(starts), (before, kind)
        assert len(before) <= 40


def test_lines_that_end_as_on_windows_move_nothing() -> None:
    assert list(statements(SOURCE.replace(b"\n", b"\r\n"), 40)) == list(statements(SOURCE, 40))


def test_a_file_that_python_cannot_parse_gives_nothing() -> None:
    assert list(statements(b"print 'hello'\nreturn", 40)) == []


def test_the_built_in_task_is_balanced_and_split_by_file(cache: Path) -> None:
    bodies = {f"{n}.py": SOURCE.replace(b"total", b"count%d" % n) for n in range(40)}
    documents = collect(bodies)
    sizes = {"train": 160, "val": 24, "test": 24}
    rows = statement_rows(documents, 40, sizes, (0.1, 0.1))
    assert {part: len(found) for part, found in rows.items()}["train"] <= 160
    for part, found in rows.items():
        counts = [sum(kind == wanted for _, kind, _ in found) for wanted in KINDS]
        assert len(set(counts)) == 1, part
        assert counts[0] > 0
    files = {part: {file for *_, file in found} for part, found in rows.items()}
    assert not files["train"] & files["test"]
    assert not files["val"] & files["test"]
    assert statement_rows(documents, 40, sizes, (0.1, 0.1)) == rows  # from the cache
    assert len(list(cache.glob("statements/*.json"))) == 1


def test_files_without_a_kind_are_refused() -> None:
    from lightsleeper.data.statements import balanced

    with pytest.raises(UserError, match="no statement of kind"):
        balanced((Document("x", b"x = 1\ny = 2\n"),), 40, 10)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_is_split_and_its_classes_are_named(kind: str, tmp_path: Path) -> None:
    data = ready(LabelledText(str(write_table(tmp_path / f"table.{kind}", kind=kind)), max_length=16, batch_size=8))
    assert data.classes == ["for", "if", "try"]
    assert {part: len(rows) for part, rows in data._open().items()} == {"train": 72, "val": 9, "test": 9}
    for batch in data.train_dataloader():
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            length = int(mask.sum())
            assert ids[0] == END
            assert length <= 16
            assert (ids[length:] == data.pad_token_id).all()
            text = bytes(ids[1:length].tolist()).decode()
            assert text.split()[0] == data.classes[int(label)]


def test_equal_texts_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    texts = [f"text {number % 30}" for number in range(300)]
    path.write_text("".join(json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(texts)))
    data = ready(LabelledText(str(path)))
    parts = [{bytes(ids.tolist()[1:].copy()) for ids in rows.tokens} for rows in data._open().values()]
    assert sum(map(len, parts)) == 30
    assert data.classes == ["0", "1"]


def test_another_split_seed_draws_other_rows(tmp_path: Path) -> None:
    path = str(write_table(tmp_path / "table.csv"))

    def test_part(seed: int) -> list[list[int]]:
        return [ids.tolist() for ids in ready(LabelledText(path, split_seed=seed))._open()["test"].tokens]

    assert test_part(0) == test_part(0)
    assert test_part(0) != test_part(1)


def test_own_parts_of_a_folder_are_kept(tmp_path: Path) -> None:
    write_table(tmp_path / "set" / "train.csv", rows=50)
    write_table(tmp_path / "set" / "test.csv", rows=20, seed=1)
    data = ready(LabelledText(str(tmp_path / "set")))
    assert {part: len(rows) for part, rows in data._open().items()} == {"train": 45, "val": 5, "test": 20}


def test_a_test_without_labels_is_drawn_from_the_training_rows() -> None:
    keys = {"train": [f"{n:02d}" for n in range(20)], "test": ["x", "y"]}
    labels = {"train": np.arange(20) % 2, "test": np.array([-1, -1])}
    chosen = parts_of(keys, labels, 0.1, 0.1)
    assert {part: source for part, (source, _) in chosen.items()} == dict.fromkeys(("train", "val", "test"), "train")
    rows = np.concatenate([rows for _, rows in chosen.values()])
    assert sorted(rows.tolist()) == list(range(20))


def test_a_tokenizer_brings_its_own_special_tokens(tmp_path: Path) -> None:
    from data.test_local_text import tokenizer_folder

    tokenizer = tokenizer_folder(tmp_path / "tokenizer")
    path = str(write_table(tmp_path / "table.csv"))
    data = ready(LabelledText(path, tokenizer=str(tokenizer), max_length=8))
    rows = data._open()["train"]
    assert rows.lengths.max() <= 8
    assert data.vocab_size == len(data.tokenizer)
    first = data.tokenizer.decode(rows.tokens[0].tolist())
    assert first.split()[0] == data.classes[rows.labels[0]]


def test_batches_of_training_hold_texts_of_similar_length(tmp_path: Path) -> None:
    data = ready(LabelledText(str(write_table(tmp_path / "table.csv", rows=400)), batch_size=16))
    spread = [int(b["attention_mask"].sum(1).max() - b["attention_mask"].sum(1).min()) for b in data.train_dataloader()]
    assert np.mean(spread) < 12


def test_a_folder_of_images_has_a_class_per_folder(tmp_path: Path) -> None:
    data = ready(LabelledImages(str(write_images(tmp_path / "images")), image_size=16, batch_size=8))
    assert data.classes == ["dark", "light"]
    assert {part: len(rows) for part, rows in data._open().items()} == {"train": 32, "val": 4, "test": 4}
    for batch in data.train_dataloader():
        assert batch["pixel_values"].shape[1:] == (3, 16, 16)
        assert batch["pixel_values"].abs().max() <= 1
        assert torch.equal(batch["pixel_values"].mean((1, 2, 3)) > 0, batch["labels"] == 1)


def test_a_square_image_is_the_middle_of_it() -> None:
    from PIL import Image

    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = 255
    image = Image.fromarray(pixels)
    assert torch.equal(SquareImage(4, 3)(image), torch.ones(3, 4, 4))
    assert SquareImage(2, 1)(image).shape == (1, 2, 2)


def test_an_image_processor_prepares_as_its_model_wants(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (tmp_path / "processor").mkdir()
    (tmp_path / "processor" / "preprocessor_config.json").write_text(json.dumps(settings))
    folder = write_images(tmp_path / "images")
    data = ready(LabelledImages(str(folder), processor=str(tmp_path / "processor")))
    batch = next(iter(data.test_dataloader()))
    assert batch["pixel_values"].shape[1:] == (3, 8, 8)
    data.save_tokenizer(tmp_path / "export")
    assert AutoImageProcessor.from_pretrained(tmp_path / "export", backend="pil").size["height"] == 8


def test_the_summary_counts_and_identifies(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv")
    first = ready(LabelledText(str(path))).summary()
    assert first["counts"]["train"]["rows"] == 72
    assert sum(first["counts"]["train"][f"of '{name}'"] for name in ("for", "if", "try")) == 72
    assert first == ready(LabelledText(str(path))).summary()
    assert first["hash"] != ready(LabelledText(str(write_table(tmp_path / "other.csv", seed=4)))).summary()["hash"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dataset": "./nowhere"}, "./nowhere does not exist"),
        ({"dataset": "nowhere.csv"}, "nowhere.csv does not exist"),
        ({"dataset": "empty"}, "folder empty is empty"),
        ({"dataset": "none.csv"}, "none.csv|few rows|one class|holds 0 class"),
        ({"dataset": "notes.txt"}, "notes.txt: expected a file of"),
        ({"dataset": "nobody/nothing"}, "cannot open the dataset 'nobody/nothing'"),
        ({"dataset": "table.csv", "text_column": "txt"}, "no column 'txt'. Did you mean 'text'"),
        ({"dataset": "table.csv", "label_column": "labels"}, "no column 'labels'. Did you mean 'label'"),
        ({"dataset": "table.csv", "tokenizer": "nowhere/tok"}, "tokenizer: cannot load"),
        ({"dataset": "same.csv"}, "holds 1 class"),
        ({"dataset": "two.csv"}, "too few rows"),
        ({"dataset": "table.csv", "max_length": 2}, "max_length must be at least 8"),
        ({"dataset": "table.csv", "batch_size": 0}, "batch_size must be at least 1"),
        ({"dataset": "table.csv", "test_fraction": 0.7}, "test_fraction"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    no_hub(monkeypatch)
    (tmp_path / "empty").mkdir()
    write_table(tmp_path / "table.csv")
    (tmp_path / "none.csv").write_text("text,label\n")
    (tmp_path / "same.csv").write_text("text,label\na,x\nb,x\nc,x\n")
    (tmp_path / "two.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=expected) as caught:
        ready(LabelledText(**arguments))
    assert "\n" not in str(caught.value)


def test_images_are_refused_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has no column 'image'"):
        ready(LabelledImages(str(write_table(tmp_path / "table.csv"))))
    with pytest.raises(UserError, match="column 'text' holds no images"):
        ready(LabelledImages("table.csv", image_column="text"))
    with pytest.raises(UserError, match="channels must be 3"):
        LabelledImages("table.csv", channels=2)
    with pytest.raises(UserError, match="processor: cannot load"):
        ready(LabelledImages("table.csv", processor="./nowhere"))
