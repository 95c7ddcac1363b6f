"""Multiple-choice questions of a Hugging Face dataset or a table, for language models to answer by likelihood.

Choices follow the question as text: a question is no passage, and which of its choices a model finds likeliest depends
on the words around it (``template``). Text of one's own that is to be continued: `LocalText(choice_items=500)`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import CHOICES_SET, Item, hash_of
from lightsleeper.data.hub_data import check_dataset, need_column, open_dataset
from lightsleeper.data.module import DataModule
from lightsleeper.data.ranges import at_least
from lightsleeper.data.tokens import Tokenized
from lightsleeper.errors import UserError

CATALOG = ("MultipleChoice",)

SPLITS = {"val": ("validation", "val", "valid", "dev")}


class MultipleChoice(Tokenized, DataModule):
    """Questions with choices, each answered by the choice of the highest likelihood; test data only.

    Args:
        dataset: Hub name, folder or table (csv, tsv, jsonl, json, parquet).
        subset: Configuration of the dataset.
        revision: Branch, tag or commit of the dataset.
        split: Which split is asked; of a dataset with one split it is that one.
        question: Column of the question.
        choices: Column of the choices: a list of texts, or ``{text, label}`` as ARC has it.
        answer: Column of the right one: its number from 0, its label, its letter, or its text.
        template: The context that is made of a question; each choice follows it behind a blank.
        items: At most so many rows, the first ones; None: all.
        tokenizer: Hub name or local folder, the model's. None: a token is a byte.
        context_tokens: Longer items lose the beginning of their context; None: as many as the longest has.
        batch_size: Items in a batch, of similar length.

    Example::

        data = MultipleChoice("allenai/ai2_arc", "ARC-Easy", answer="answerKey", tokenizer="HuggingFaceTB/SmolLM2-135M")

    Raises:
        UserError: an argument is out of range; a file, column or tokenizer is missing; a row is no question.
    """

    evaluate_only = True
    test_names = (CHOICES_SET,)

    def __init__(
        self,
        dataset: str,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "test",
        question: str = "question",
        choices: str = "choices",
        answer: str = "answer",
        template: str = "{question}\nAnswer:",
        items: int | None = None,
        tokenizer: str | None = None,
        context_tokens: int | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        at_least(1, items=items, context_tokens=context_tokens, batch_size=batch_size)
        if "{question}" not in template:
            raise UserError(f"template: '{template}' has no {{question}}.")
        self.dataset, self.subset, self.revision, self.split = dataset, subset, revision, split
        self.question, self.choices, self.answer = question, choices, answer
        self.template, self.limit = template, items
        self.tokenizer_name = tokenizer
        self.longest, self.batch_size = context_tokens, batch_size
        self.items: list[Item] = []
        """Known after ``setup``."""

    @property
    def context_tokens(self) -> int | None:
        """Tokens that the longest item takes; known after ``setup``."""
        return self._rows.longest if self.items else self.longest

    def check(self) -> None:
        """Refuse files, a dataset or a tokenizer that are not there."""
        check_dataset(self.dataset)
        self.vocab_size  # noqa: B018 - opens the tokenizer

    def load(self) -> None:
        names = {self.split: SPLITS.get(self.split, (self.split,))}
        found = open_dataset(self.dataset, self.subset, self.revision, names)
        if not found:
            found = open_dataset(self.dataset, self.subset, self.revision)  # one split alone
            if len(found) > 1:
                raise UserError(f"{self.dataset} has no split '{self.split}'; it has {', '.join(found)}.")
        (rows,) = found.values()
        for column in (self.question, self.choices, self.answer):
            need_column(rows, column, self.dataset)
        chosen = rows if self.limit is None else rows.select(range(min(self.limit, len(rows))))
        self.items = list(self._read(chosen))
        if not self.items:
            raise UserError(f"{self.dataset} has no row in its split '{self.split}'.")
        self._rows = ChoiceRows(self.items, self.tokenizer, self.longest)

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Item]:
        for number, row in enumerate(rows):
            texts, labels = _texts(row[self.choices])
            right = _answer(row[self.answer], texts, labels)
            if right is None or len(texts) < 2 or not all(text.strip() for text in texts):
                raise UserError(
                    f"{self.dataset}, row {number}: expected at least two texts in '{self.choices}', and in "
                    f"'{self.answer}' the right one's number from 0, letter, label or text; got {len(texts)} and "
                    f"'{row[self.answer]}'."
                )
            context = self.template.replace("{question}", str(row[self.question]).strip())
            yield Item(context, tuple(f" {text.strip()}" for text in texts), right, str(number))

    def train_dataloader(self) -> DataLoader:
        raise UserError(
            "MultipleChoice is test data only: set run.stages to [test], or `lightning evaluate RUN --data`."
        )

    def val_dataloader(self) -> DataLoader:
        return self.train_dataloader()

    def test_dataloader(self) -> DataLoader:
        return self._rows.loader(self.batch_size)

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity and sizes."""
        counts = {"items": len(self.items), "contexts_cut": self._rows.cut}
        return {
            "hash": hash_of(self.items),
            "protocol": f"multiple choice, {self.split}",
            "counts": {"test": counts},
            "overlap": {},
        }


def _texts(given: Any) -> tuple[list[str], list[str]]:
    """Choices and their labels, which may be none."""
    if isinstance(given, Mapping):
        return [str(text) for text in given.get("text", ())], [str(label) for label in given.get("label", ())]
    return [str(text) for text in given or ()], []


def _answer(given: Any, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    """The number of the right choice; None where ``given`` names none."""
    if isinstance(given, int) and not labels:
        return given if 0 <= given < len(texts) else None
    letters = [chr(ord("A") + number) for number in range(len(texts))]
    numbers = [str(number) for number in range(len(texts))]
    for known in (labels or letters, texts, numbers):
        if str(given).strip() in known:
            return list(known).index(str(given).strip())
    return None
