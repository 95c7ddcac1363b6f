"""What a sweep shows while it runs and at its end."""

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

from lightsleeper.search.board import Board, counts, table
from rich.console import Console
from tiny_sweeps import open_study, settings


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_a_table_with_workers_counts_best_and_time_left(tmp_path: Path):
    study = open_study(tmp_path)
    first, second, third = (study.take(os.getpid()) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    study.finish(first, [0.25], run="r-1")
    study.fail(second, "clip 3 is [bold]no audio")
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=120)
    with Board(console) as board:
        board.began("worker 1", third)
        board.validated("worker 1", 2, 0.5)
        board.ended("worker 2", first, "val/loss 0.25", 30.0)
        board.show(study, [SimpleNamespace(name="worker 1", taken=third, began=time.monotonic())], workers=1)
    text = drawn(console)
    assert "4 trials: 1 done, 1 failed, 1 running, 1 waiting; about 0:01:00 left" in text
    assert "best so far: val/loss 0.25 with model.width=4 data.rows=32" in text
    assert "validation 2: 0.5" in text


def test_elsewhere_it_is_one_line_an_event(tmp_path: Path):
    study = open_study(tmp_path)
    taken = study.take(os.getpid())
    assert taken is not None
    console = Console(file=io.StringIO(), width=120)
    with Board(console) as board:
        board.began("worker 1", taken)
        board.show(study, [], workers=1)
        board.ended("worker 1", taken, "val/loss 0.25", 61.0)
    assert drawn(console).splitlines() == [
        "trial 0 begins on worker 1: model.width=4 data.rows=32",
        "trial 0 val/loss 0.25 (1 min 1 s)",
    ]


def test_the_last_table_has_the_best_first_and_errors_as_they_are(tmp_path: Path):
    study = open_study(tmp_path)
    for value in (0.5, 0.25, None):
        taken = study.take(os.getpid())
        assert taken is not None
        study.fail(taken, "clip 3 is [bold]no audio") if value is None else study.finish(taken, [value], seconds=1.0)
    console = Console(file=io.StringIO(), width=140)
    console.print(table(study))
    lines = [line.split() for line in drawn(console).splitlines() if line.strip() and line.split()[0].isdigit()]
    assert [line[0] for line in lines] == ["1", "0", "2", "3"]
    assert "[bold]no" in lines[2]
    assert counts(study.rows()) == "4 trials: 2 done, 1 failed, 1 waiting"


def numbers(console: Console) -> list[int]:
    lines = [line.split() for line in drawn(console).splitlines()]
    return [int(line[0]) for line in lines if line and line[0].isdigit()]


def test_of_many_trials_with_few_values_none_is_shown_twice(tmp_path: Path):
    study = open_study(tmp_path, settings(parameters={"model.width": {"values": list(range(1, 31))}}))
    while taken := study.take(os.getpid()):
        study.finish(taken, [0.5]) if taken.number < 2 else study.fail(taken, "no audio")
    console = Console(file=io.StringIO(), width=140)
    console.print(table(study))
    assert numbers(console) == list(range(24))


def test_a_trial_that_was_stopped_early_is_not_among_the_best(tmp_path: Path):
    study = open_study(tmp_path)
    stopped, done = study.take(os.getpid()), study.take(os.getpid())
    assert stopped is not None
    assert done is not None
    study.report(stopped, 1, 0.1)
    study.prune(stopped)
    study.finish(done, [0.5])
    console = Console(file=io.StringIO(), width=140)
    console.print(table(study))
    assert numbers(console)[:2] == [1, 0]


def test_of_many_trials_the_table_has_the_best_and_says_how_many_more(tmp_path: Path):
    many = settings(parameters={"model.width": {"values": list(range(1, 31))}})
    study = open_study(tmp_path, many)
    while taken := study.take(os.getpid()):
        study.finish(taken, [1.0 - taken.number / 100])
    console = Console(file=io.StringIO(), width=140)
    console.print(table(study))
    assert "and 18 more" in drawn(console)
    assert " 29 " in drawn(console)
