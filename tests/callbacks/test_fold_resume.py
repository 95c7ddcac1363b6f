"""A run that folds at an epoch and is killed before, at or after it ends as the run that was not."""

import signal

import pytest
import yaml
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.tracking.record import read
from tiny_runs import FAST, assert_equal_runs, last, prepare, start, stopped, write

KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def _world(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path)


def recipe(name: str, pruned: bool, scheduler: str):
    """Six optimizer steps an epoch, four epochs; folds after two."""
    path = write(name)
    content = yaml.safe_load(path.read_text())
    content["model"] = {"class_path": "tiny_rep.TinyRep", "init_args": {"scheduler": scheduler}}
    content["callbacks"] = {"fold": {"class_path": "FoldOnExport", "init_args": {"at": 2}}}
    if pruned:
        content["callbacks"]["prune"] = {"class_path": "tiny_rep.FoldedPrune", "init_args": {"start": 0.5, "end": 0.7}}
    path.write_text(yaml.safe_dump(content))
    return path


# Killed in the epoch before the fold, at the first batch after it, later, and in the last epoch.
@pytest.mark.parametrize(
    ("pruned", "scheduler", "steps"), [(True, "epoch", (8, 12, 19)), (True, "step", (12,)), (False, "plateau", (13,))]
)
def test_killed_around_the_fold_a_run_resumes_bit_for_bit(pruned: bool, scheduler: str, steps: tuple[int, ...]):
    path = recipe("tiny", pruned, scheduler)
    whole = start(path, FAST, runs="whole")
    for step in steps:
        assert stopped(f"step:{step}:kill", path, FAST) == KILLED
        assert_equal_runs(whole, start(path, FAST, resume=last()))
    state = load_checkpoint(whole / "checkpoints" / "last.ckpt")["state_dict"]
    assert not any("branches" in key for key in state)
    report = read(whole).compression
    assert report["fold"]["compress/folded_layers"] == 2
    assert report["fold"]["exact_abs_diff"] == 0.0  # it has happened before
    if pruned:
        assert report["prune"]["compress/sparsity"] == pytest.approx(0.5, abs=0.1)


def test_without_a_fit_stage_left_the_finalized_network_is_that_of_the_checkpoint():
    path = recipe("tiny", True, "epoch")
    assert stopped("finalize:0:kill", path) == KILLED
    folder = start(path, resume="last")
    record = read(folder)
    assert record.status == "finished"
    assert record.size["parameters"] == 4 * 3 + 4 + 4 * 4 * 3 + 4 + 8 + 1
    assert record.artifacts[0]["parity"]["max_abs_diff"] < 1e-4
