"""Questions of a dataset: its columns in all their shapes, its splits, and what is no question."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightsleeper.data.multiple_choice import MultipleChoice
from lightsleeper.errors import UserError

ROWS = [{"question": f"What is {n}?", "choices": ["one", "two ", f"number {n}"], "answer": n % 3} for n in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ready(source: str, **arguments: Any) -> MultipleChoice:
    data = MultipleChoice(source, **arguments)
    data.check()
    data.setup()
    return data


def test_rows_become_items_behind_their_question(tmp_path: Path) -> None:
    data = ready(write(tmp_path / "rows.jsonl", ROWS), batch_size=4)
    assert data.items[1].context == "What is 1?\nAnswer:"
    assert data.items[1].choices == (" one", " two", " number 1")
    assert [item.answer for item in data.items] == [0, 1, 2, 0, 1, 2]
    assert [len(batch["answers"]) for batch in data.test_dataloader()] == [4, 2]
    assert data.summary()["counts"] == {"test": {"items": 6, "contexts_cut": 0}}
    assert data.context_tokens == len("What is 1?\nAnswer: number ")
    assert list(data.test_names) == ["choices"]


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (["a b", "c", "d"], 1),
        (["a b", "c", "d"], "1"),
        (["a b", "c", "d"], "B"),
        (["a b", "c", "d"], "c"),
        ({"text": ["a b", "c", "d"], "label": ["A", "B", "C"]}, "B"),
        ({"text": ["a b", "c", "d"], "label": ["1", "2", "3"]}, "2"),
    ],
)
def test_the_answer_is_a_number_a_label_a_letter_or_a_text(choices: Any, answer: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"question": "?", "choices": choices, "answer": answer}])
    assert ready(source).items[0].answer == 1


def test_columns_template_and_number_of_rows_can_be_named(tmp_path: Path) -> None:
    rows = [{"ctx": row["question"], "endings": row["choices"], "label": str(row["answer"])} for row in ROWS]
    source = write(tmp_path / "rows.jsonl", rows)
    data = ready(source, question="ctx", choices="endings", answer="label", template="{question}", items=2)
    assert [item.context for item in data.items] == ["What is 0?", "What is 1?"]
    assert data.summary()["hash"] != ready(source, question="ctx", choices="endings", answer="label").summary()["hash"]


def test_the_split_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", ROWS)
    write(tmp_path / "set" / "validation.jsonl", ROWS[:2])
    folder = str(tmp_path / "set")
    assert len(ready(folder, split="validation").items) == len(ready(folder, split="val").items) == 2
    assert len(ready(folder, split="train").items) == 6
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        ready(folder)


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ({}, {"question": "questoin"}, "has no column 'questoin'. Did you mean 'question'"),
        ({"answer": 7}, {}, "row 0: expected at least two texts .* got 3 and '7'"),
        ({"choices": ["one"], "answer": 0}, {}, "row 0: expected at least two texts .* got 1"),
        ({"choices": ["one", " "], "answer": 0}, {}, "row 0"),
        ({}, {"template": "Answer:"}, "template: 'Answer:' has no {question}"),
        ({}, {"items": 0}, "items must be at least 1"),
        ({}, {"context_tokens": 3}, "its longest choice needs more tokens than 3"),
    ],
)
def test_a_mistake_is_one_line(row: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{**ROWS[0], **row}])
    with pytest.raises(UserError, match=message) as caught:
        ready(source, **arguments)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="nothing.jsonl does not exist"):
        MultipleChoice("nothing.jsonl").check()
