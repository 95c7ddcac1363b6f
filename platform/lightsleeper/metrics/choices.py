"""Accuracy of answers by likelihood, beside what answers without reading: the commonest place and the length alone.

Both of these are told the answers of the test, which flatters them: the place that is right most often, and the best of
four rules of length (shortest and longest, in bytes and in tokens; of equals the first).
"""

import math

import torch
from torch import Tensor

from lightsleeper.metrics.exact import mcnemar, share
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric
from lightsleeper.metrics.resampling import draws, interval

RESAMPLES = 1000
BASELINES = ("majority", "length")
LENGTH_RULES = ("shortest", "longest", "fewest", "most")


class ChoiceMetrics(RowMetric):
    """Collects items of which one choice each is right.

    >>> metrics = ChoiceMetrics()
    >>> metrics.update(log_likelihoods, tokens, batch["bytes"], batch["item"], batch["answers"], batch["groups"],
    ...                batch["numbers"])
    >>> metrics.results("test/")["test/accuracy"]
    Measurement(value=0.61, low=0.56, high=0.65, n=60, method='bootstrap over groups, 1000')
    """

    columns = ("scores", "by_sum", "by_token", "by_byte", *LENGTH_RULES, "answers", "groups", "numbers")

    def update(
        self, nats: Tensor, tokens: Tensor, byte_counts: Tensor, item: Tensor,
        answers: Tensor, groups: Tensor, numbers: Tensor,
    ) -> None:  # fmt: skip
        """Log-likelihood, tokens and bytes of each choice (R,), in their order, and the item (R,) of each; by item
        (B,) the right choice, the group that it is drawn with, and its number in the test."""
        place = torch.arange(len(item), device=item.device) - torch.searchsorted(item, item)

        def table(values: Tensor) -> Tensor:
            """(R,) to (B, choices), -inf where an item has fewer."""
            empty = nats.new_full(
                (len(answers), int(place.max()) + 1), -torch.inf, dtype=self._type("scores", nats.device)
            )
            return empty.index_put((item, place), values.to(empty))

        sums = table(nats)
        self.append(
            scores=-sums.log_softmax(1).gather(1, answers[:, None])[:, 0],
            by_sum=sums.argmax(1),
            by_token=table(nats / tokens).argmax(1),
            by_byte=table(nats / byte_counts).argmax(1),
            shortest=table(-byte_counts).argmax(1),
            longest=table(byte_counts).argmax(1),
            fewest=table(-tokens).argmax(1),
            most=table(tokens).argmax(1),
            answers=answers,
            groups=groups,
            numbers=numbers,
        )

    @property
    def seen(self) -> bool:
        """Whether any item was observed, here or in another process."""
        with self.gathered():
            return bool(len(self.rows("answers")))

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(m.value) for name, m in self.results("", intervals=False).items()}

    def results(self, prefix: str = "test/", intervals: bool = True) -> dict[str, Measurement]:
        """``{prefix}accuracy`` by the likelihood of the whole choice, ``accuracy_per_token``, ``accuracy_per_byte``;
        ``loss``, nats of the right choice among its item's; ``majority_accuracy`` and ``length_accuracy``; and against
        either of these ``gain_over_<name>``, the difference of ``accuracy``, and ``mcnemar_<name>``, the p of it.

        n counts groups of items; where every item is one, accuracies have exact intervals. McNemar's test takes items
        for independent: with several of a document its p is too small.
        """
        hits, groups, losses = self._hits()
        if not len(groups):
            return {f"{prefix}accuracy": Measurement(math.nan, n=0)}
        found = {f"{name}": mean(values, groups, intervals) for name, values in hits.items()}
        found["loss"] = mean(losses, groups, intervals)
        for name in BASELINES:
            difference, p = compared(hits["accuracy"], hits[f"{name}_accuracy"], groups, intervals)
            found |= {f"gain_over_{name}": difference, f"mcnemar_{name}": p}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def details(self) -> dict[str, list[int]]:
        """By item, in the order of their numbers: the ``answers``, what was ``chosen``, and the ``groups``."""
        with self.gathered():
            order = self.rows("numbers").cpu().argsort()
            rows = {"answers": "answers", "chosen": "by_sum", "groups": "groups"}
            return {name: self.rows(column).cpu()[order].tolist() for name, column in rows.items()}

    def _hits(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Right or wrong (n,) by the name of an accuracy; groups (n,); losses (n,)."""
        with self.gathered():
            rows = {column: self.rows(column).cpu() for column in self.columns}
        answers = rows["answers"]
        right = {column: rows[column] == answers for column in ("by_sum", "by_token", "by_byte", *LENGTH_RULES)}
        common = answers.mode().values if len(answers) else answers
        hits = {
            "accuracy": right["by_sum"],
            "accuracy_per_token": right["by_token"],
            "accuracy_per_byte": right["by_byte"],
            "majority_accuracy": answers == common,
            "length_accuracy": max((right[rule] for rule in LENGTH_RULES), key=lambda values: int(values.sum())),
        }
        return hits, rows["groups"], rows["scores"]


def compared(first: Tensor, second: Tensor, groups: Tensor, intervals: bool = True) -> tuple[Measurement, Measurement]:
    """By how much ``first`` is right more often than ``second`` on the same items, both (n,); and McNemar's exact p.

    Two models: of ``answers`` and ``chosen`` in their ``test.json``.
    """
    difference = mean(first.double() - second.double(), groups, intervals)
    return difference, Measurement(mcnemar(first, second)[2], n=len(first))


def mean(values: Tensor, groups: Tensor, intervals: bool = True) -> Measurement:
    """The mean of values (n,) with a 95 % interval that draws whole ``groups``; exact for shares of items that are
    groups of their own."""
    names, place = groups.unique(return_inverse=True)
    found = Measurement(float(values.double().mean()), n=len(names))
    if not intervals or len(names) < 2:
        return found
    if values.dtype == torch.bool and len(names) == len(values):
        return share(int(values.sum()), len(values))
    sums = torch.zeros(len(names), 2, dtype=torch.double)  # of values and of items
    sums.index_add_(0, place, torch.stack([values.double(), torch.ones(len(values), dtype=torch.double)], 1))
    drawn = torch.cat([weights @ sums for weights in draws(len(names), RESAMPLES)])
    low, high = interval(drawn[:, 0] / drawn[:, 1])
    return Measurement(found.value, low, high, len(names), f"bootstrap over groups, {RESAMPLES}")
