"""Accuracy of answers by likelihood, and of those that do not read."""

import math

import pytest
import torch
from lightsleeper.metrics.choices import ChoiceMetrics, compared, mean
from lightsleeper.metrics.exact import mcnemar, share

ITEMS = 40


def items(seed: int = 0, uneven: bool = False) -> dict[str, torch.Tensor]:
    """Random items, of two to four choices where ``uneven``, each with what `ChoiceMetrics.update` takes."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 5, (ITEMS,), generator=generator) if uneven else torch.full((ITEMS,), 4)
    item = torch.arange(ITEMS).repeat_interleave(counts)
    return {
        "nats": -10 * torch.rand(len(item), generator=generator),
        "tokens": torch.randint(1, 9, (len(item),), generator=generator),
        "byte_counts": torch.randint(5, 30, (len(item),), generator=generator),
        "item": item,
        "answers": (torch.rand(ITEMS, generator=generator) * counts).long(),
        "groups": torch.arange(ITEMS) // 4,
        "numbers": torch.randperm(ITEMS, generator=generator),
    }


def observed(*given: dict[str, torch.Tensor]) -> ChoiceMetrics:
    metric = ChoiceMetrics()
    for each in given:
        metric.update(**each)
    return metric


@pytest.mark.parametrize("uneven", [False, True])
def test_accuracies_are_those_of_a_plain_loop(uneven: bool) -> None:
    given = items(uneven=uneven)
    hits = dict.fromkeys(("accuracy", "accuracy_per_token", "accuracy_per_byte"), 0)
    loss = 0.0
    for number in range(ITEMS):
        mine = (given["item"] == number).nonzero()[:, 0]
        sums = [float(given["nats"][row]) for row in mine]
        answer = int(given["answers"][number])
        loss -= sums[answer] - math.log(sum(map(math.exp, sums)))
        for name, lengths in (
            ("accuracy", None),
            ("accuracy_per_token", "tokens"),
            ("accuracy_per_byte", "byte_counts"),
        ):
            values = [
                total if lengths is None else total / int(given[lengths][row])
                for total, row in zip(sums, mine, strict=True)
            ]
            hits[name] += values.index(max(values)) == answer
    found = observed(given).results("")
    for name, count in hits.items():
        assert found[name].value == pytest.approx(count / ITEMS)
        assert found[name].low < found[name].value < found[name].high
        assert found[name].n == 10
    assert found["loss"].value == pytest.approx(loss / ITEMS, rel=1e-5)


def test_batches_in_any_order_give_the_same() -> None:
    given = items()
    rows = given["item"] < 24
    first = {name: value[rows] if len(value) == len(rows) else value[:24] for name, value in given.items()}
    second = {name: value[~rows] if len(value) == len(rows) else value[24:] for name, value in given.items()}
    second["item"] = second["item"] - 24
    whole, parts = observed(given), observed(second, first)
    assert parts.results("") == whole.results("")
    assert parts.details() == whole.details()


def test_baselines_are_the_commonest_place_and_the_best_rule_of_length() -> None:
    given = items()
    given["answers"] = torch.tensor([2] * 30 + [0] * 10)
    given["byte_counts"] = torch.tensor([7, 7, 9, 7] * 35 + [7] * 20)  # the longest is the third; of equals the first
    given["tokens"] = torch.ones_like(given["tokens"])
    found = observed(given).results("")
    assert found["majority_accuracy"].value == 0.75
    assert found["length_accuracy"].value == (30 + 5) / 40


def test_gain_and_p_compare_the_same_items() -> None:
    given = items()
    given["answers"] = torch.arange(ITEMS) % 4
    given["nats"] = torch.zeros(4 * ITEMS)
    given["nats"][torch.arange(30) * 4 + given["answers"][:30]] = 1.0  # right in the first 30, else the first place
    found = observed(given).results("")
    right = (torch.arange(ITEMS) < 30) | (given["answers"] == 0)
    majority = given["answers"] == 0
    assert found["accuracy"].value == pytest.approx(float(right.float().mean()))
    assert found["gain_over_majority"].value == pytest.approx(found["accuracy"].value - 0.25)
    assert found["gain_over_majority"].low > 0
    assert found["mcnemar_majority"].value == mcnemar(right, majority)[2] < 1e-5


def test_items_that_are_groups_of_their_own_have_exact_intervals() -> None:
    given = items()
    given["groups"] = torch.arange(ITEMS)
    found = observed(given).results("")["accuracy"]
    assert found == share(round(found.value * ITEMS), ITEMS)


def test_groups_that_agree_widen_the_interval() -> None:
    values = torch.arange(200) % 2 == 0
    alike, mixed = torch.arange(200) % 20, torch.arange(200) // 10
    first, second = mean(values, alike), mean(values, mixed)
    assert first.high - first.low > 0.2
    assert second.high - second.low < 0.01


def test_equal_answers_differ_by_nothing() -> None:
    hits = torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.5
    difference, p = compared(hits, hits, torch.arange(50) // 5)
    assert (difference.value, difference.low, difference.high, p.value) == (0, 0, 0, 1)


def test_details_are_in_the_order_of_the_items() -> None:
    given = items()
    found = observed(given).details()
    order = given["numbers"].argsort()
    assert found["answers"] == given["answers"][order].tolist()
    assert found["chosen"] == given["nats"].view(ITEMS, 4).argmax(1)[order].tolist()
    assert found["groups"] == given["groups"][order].tolist()


def test_without_items_there_is_no_value() -> None:
    metric = ChoiceMetrics()
    assert not metric.seen
    assert math.isnan(metric.results("")["accuracy"].value)
