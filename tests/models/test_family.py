from typing import Any

import lightning as L
import pytest
import torch
from lightsleeper.errors import UserError
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Batch, Family
from torch.utils.data import DataLoader


class Mean(Family):
    def observe(self, batch: Batch) -> None:
        self.seen = batch["x"].mean()

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        return {f"{prefix}mean": Measurement(float(self.seen))}


class Sets(L.LightningDataModule):
    def __init__(self, count: int, **names: Any) -> None:
        super().__init__()
        self.count = count
        vars(self).update(names)

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader([{"x": torch.tensor(float(number))}]) for number in range(self.count)]


def run(data: Sets) -> dict[str, float]:
    model = Mean()
    L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(model, data, verbose=False)
    return {name: found.value for name, found in model.measured.items()}


def test_each_test_set_has_its_name_in_its_metrics():
    assert run(Sets(2, test_names=["", "far"])) == {"test/mean": 0.0, "test/far/mean": 1.0}


def test_a_single_test_set_needs_no_name():
    assert run(Sets(1)) == {"test/mean": 0.0}


@pytest.mark.parametrize("names", [{}, {"test_names": ["", "near", "far"]}])
def test_names_that_do_not_match_the_test_sets_are_refused(names: dict[str, Any]):
    with pytest.raises(UserError, match=r"Sets: test_names has \d .*gives 2 test sets; expected a name for each"):
        run(Sets(2, **names))
