"""What is known of a sweep's trials before any runs."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from lightsleeper.search.checks import _validations


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, 8),
        ({"check_val_every_n_epoch": 2}, 4),
        ({"val_check_interval": 0.25}, 32),
        ({"val_check_interval": 1}, None),  # after every batch
        ({"val_check_interval": 50}, None),
        ({"val_check_interval": "00:00:10:00"}, None),
        ({"val_check_interval": {"minutes": 10}}, None),
        ({"val_check_interval": timedelta(minutes=10)}, None),
        ({"max_epochs": -1}, None),
    ],
)
def test_the_last_rung_of_hyperband_is_the_number_of_validations_where_that_is_known(
    trainer: Any, expected: int | None
):
    base: Any = SimpleNamespace(config={"trainer": {"max_epochs": 8, **trainer}})
    assert _validations(base) == expected
