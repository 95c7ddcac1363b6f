from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import tiny_prefill as tiny
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.errors import UserError
from lightsleeper.generation import table as tables
from lightsleeper.generation.table import SplitTable


@cache
def conditions(**more):
    """Those of this machine, whose name is in no file."""
    made = tables.conditions(tiny.llama(**more), 2, 1, "gloo", "cpu", "as it is")
    return replace(made, device="a machine")


def filled(ranks: int = 2) -> SplitTable:
    table = SplitTable(replace(conditions(), ranks=ranks))
    table.add((600, 400), 1.0)
    table.add((1400, 600), 3.0)
    return table


def test_a_measured_length_gets_its_own_split():
    assert filled().predict(1000) == (600, 400)
    assert filled().predict(2000) == (1400, 600)


def test_between_two_lengths_shares_are_linear():
    assert filled().predict(1500) == (975, 525)  # 65 %


@given(st.integers(1000, 2000))
def test_shares_between_two_entries_lie_between_theirs_and_sum_to_the_prompt(tokens):
    split = filled().predict(tokens)
    assert sum(split) == tokens
    assert 0.6 * tokens - 1 <= split[0] <= 0.7 * tokens + 1


@given(st.integers(1000, 1999))
def test_a_longer_prompt_gives_no_rank_fewer_tokens_between_entries(tokens):
    shorter, longer = filled().predict(tokens), filled().predict(tokens + 1)
    assert all(b >= a - 1 for a, b in zip(shorter, longer, strict=True))


@given(st.integers(1, 100_000))
def test_outside_the_entries_the_nearest_ones_shares_hold(tokens):
    split = filled().predict(tokens)
    assert sum(split) == tokens
    assert min(split) >= 1
    if tokens < 1000 and len(split) == 2:
        assert split[0] == pytest.approx(0.6 * tokens, abs=1)


def test_fewer_tokens_than_ranks_take_one_each():
    table = SplitTable(replace(conditions(), ranks=4))
    table.add((400, 300, 200, 100), 1.0)
    assert table.predict(3) == (1, 1, 1)


def test_an_empty_table_predicts_nothing():
    with pytest.raises(UserError, match="search at least one length"):
        SplitTable(conditions()).predict(9)


def test_a_table_comes_back_from_its_file(tmp_path: Path):
    filled().save(tmp_path / "splits.json")
    table = tables.load(tmp_path / "splits.json", conditions())
    assert (table.entries, table.seconds) == (filled().entries, filled().seconds)


@pytest.mark.parametrize("field", asdict(conditions()))
def test_each_other_condition_is_refused_by_name(tmp_path: Path, field: str):
    filled().save(tmp_path / "splits.json")
    other = replace(conditions(), **{field: 3 if field in ("ranks", "threads") else "other"})
    with pytest.raises(UserError, match=f"made under other conditions: {field} is '"):
        tables.load(tmp_path / "splits.json", other)


def test_another_architecture_is_another_model():
    assert conditions().model != conditions(num_hidden_layers=2).model
    assert conditions().model.startswith("llama ")


@pytest.mark.parametrize("text", ["", "[]", '{"conditions": {}}', '{"schema": 1}'])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(UserError, match="is not a table of splits"):
        tables.load(tmp_path / "splits.json", conditions())


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        tables.load(tmp_path / "none.json", conditions())
