"""A run that was stopped, in whatever way and at whatever moment, ends as the run that was not."""

import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import tiny_family
from lightsleeper.cli import main
from lightsleeper.errors import UserError
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.tracking.record import read, status_of
from lightsleeper.tracking.runs import scan
from tiny_runs import FAST, assert_equal_runs, last, prepare, start, stopped, two_recipes, uninterrupted, write

KILLED = -signal.SIGKILL
EARLY_STOPPING = (
    "--callbacks.stop={class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 1, min_delta: 0.06}}",
    "--trainer.max_epochs=9",
)
VARIANTS = {
    "epoch scheduler": (),
    "plateau scheduler": ("--model.scheduler=plateau",),
    "step scheduler": ("--model.scheduler=step", "--trainer.accumulate_grad_batches=2"),
    "workers": ("--data.workers=1", "--trainer.max_epochs=3"),
    "max_steps": ("--trainer.max_steps=20", "--trainer.max_epochs=-1"),
    "several validations": ("--trainer.val_check_interval=0.5",),
    "last epoch ships": ("--run.monitor=null",),
    "early stopping": EARLY_STOPPING,
    "compression": ("--callbacks.prune={class_path: tiny_family.TinyPrune}",),
}


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_in_the_third_epoch_a_run_resumes_bit_for_bit(variant: str):
    overrides = (FAST, *VARIANTS[variant])
    path = write()
    step = 7 if variant == "step scheduler" else 14  # three optimizer steps an epoch, or six
    assert stopped(f"step:{step}:kill", path, *overrides) == KILLED
    assert status_of(read(last())) == "died"
    folder = start(path, *overrides, resume="last")
    assert folder == last()
    assert_equal_runs(uninterrupted(*overrides), folder)


@pytest.mark.parametrize("moment", ["step:0", "step:6", "step:23", "finalize:0", "test:1"])
def test_killed_at_any_stage_a_run_resumes_bit_for_bit(moment: str):
    path = write()
    assert stopped(f"{moment}:kill", path, FAST) == KILLED
    assert_equal_runs(uninterrupted(FAST), start(path, FAST, resume=last()))


def test_killed_during_export_a_run_ends_with_an_equal_file():
    path = write()
    assert stopped("export:0:kill", path) == KILLED
    folder, whole = start(path, resume="last"), uninterrupted()
    assert_equal_runs(whole, folder)
    artifacts = [read(run).artifacts[0] for run in (whole, folder)]
    assert artifacts[0]["bytes"] == artifacts[1]["bytes"]


@pytest.mark.slow
@pytest.mark.longest
def test_killed_at_twenty_moments_in_a_row_a_run_still_ends_equal():
    path = write()
    moments = [*(f"step:{step}" for step in (0, 1, 3, 5, 6, 7, 8, 11, 12, 13, 15, 17, 18, 21, 23))]
    moments += ["finalize:0", "test:0", "test:1", "test:2", "export:0"]
    assert stopped(f"{moments[0]}:kill", path) == KILLED
    for moment in moments[1:]:
        assert stopped(f"{moment}:kill", path, resume="last") == KILLED, moment
    assert_equal_runs(uninterrupted(), start(path, resume="last"))
    assert len(scan(Path("runs"))[0]) == 1


@pytest.mark.slow
@pytest.mark.longest
def test_killed_at_twenty_random_times_every_run_ends_equal():
    path, dice = two_recipes(), random.Random(5)
    whole = uninterrupted(required=True)
    took_s = sum(sum(read(run).seconds.values()) for run in (whole, last("step", whole.parents[1])))
    for number in range(20):
        runs = f"runs-{number}"
        process = multiprocessing.get_context("fork").Process(target=start, args=(path,), kwargs={"runs": runs})
        process.start()
        process.join(dice.uniform(0, 1.5 * took_s))  # imports are paid, setting up is not among the stages
        process.kill()
        process.join()
        begun = list(Path(runs).glob("both/*/record.json"))
        if not begun:
            folder = start(path, runs=runs)
        elif read(begun[0].parent).status == "finished":
            folder = begun[0].parent
        else:
            folder = start(path, runs=runs, resume="last")
        assert_equal_runs(whole, folder)


def test_finished_stages_are_not_done_again():
    path = write()
    assert stopped("test:0:kill", path, FAST) == KILLED
    files = [last() / name for name in ("metrics.csv", "export/model.safetensors", "checkpoints/last.ckpt")]
    before = [file.stat().st_mtime_ns for file in files]
    start(path, FAST, resume="last")
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_fit_that_stopped_early_is_not_trained_on_when_killed_right_after():
    overrides = (FAST, *EARLY_STOPPING)
    path = write()
    folder = start(path, *overrides)
    record = read(folder)  # as if the process had died between the last checkpoint and the record
    record.status, record.stages = "interrupted", {"fit": "running"}
    (folder / "record.json").write_text(record.to_json())
    start(path, *overrides, resume=folder)
    assert_equal_runs(uninterrupted(*overrides), folder)


def test_a_run_moved_elsewhere_keeps_its_best_epoch():
    overrides = (FAST, "--run.mode=max")  # of a loss that falls: the first epoch is the best
    path = write()
    assert stopped("step:14:kill", path, *overrides) == KILLED
    shutil.move("runs", "elsewhere")
    folder = start(path, *overrides, resume="last", runs="elsewhere")
    assert_equal_runs(uninterrupted(*overrides), folder)
    assert load_checkpoint(folder / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_resuming_needs_no_recipe_on_the_line():
    assert stopped("step:14:kill", write(), FAST) == KILLED
    assert main(["run", "--resume", "last"]) == 0
    assert_equal_runs(uninterrupted(FAST), last())


# --- signals ---


@pytest.mark.parametrize("how", ["int", "term"])
def test_a_signal_leaves_a_run_that_says_how_to_continue(how: str, capfd: pytest.CaptureFixture[str]):
    path = write()
    assert stopped(f"step:14:{how}", path, FAST) == 130
    printed = capfd.readouterr()
    assert f"lightning run --resume {last().name}" in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert read(last()).status == "interrupted"
    assert_equal_runs(uninterrupted(FAST), start(path, FAST, resume=last().name))


@pytest.mark.parametrize("place", ["finalize", "test"])
def test_a_signal_outside_the_fit_is_an_interruption_too(place: str):
    assert stopped(f"{place}:0:int", write(), FAST) == 130
    assert read(last()).status == "interrupted"


# --- required steps ---


@pytest.mark.parametrize("moment", ["step:3", "step:9", "finalize:0"])
def test_killed_inside_a_required_step_the_run_resumes_that_step(moment: str):
    path = two_recipes()
    assert stopped(f"{moment}:kill", path) == KILLED
    step = last("step")
    folder = start(path, resume="last")  # the run itself, though its step is younger
    assert folder.parent.name == "both"
    assert last("step") == step
    assert_equal_runs(uninterrupted(required=True), folder)
    assert_equal_runs(last("step", uninterrupted(required=True).parents[1]), step)


def test_a_run_resumed_by_its_folder_finds_its_steps_beside_it():
    path = two_recipes()
    assert stopped("step:9:kill", path) == KILLED
    step = last("step")
    assert main(["run", "--resume", str(last("both")), "--runs-dir", "others"]) == 0
    assert read(step).status == "finished"
    assert not Path("others").exists()


# --- refusals ---


def test_a_finished_run_is_not_resumed():
    path = write()
    folder = start(path, FAST, "--trainer.max_epochs=1")
    with pytest.raises(UserError, match="is finished"):
        start(path, FAST, "--trainer.max_epochs=1", resume=folder.name)


def test_a_changed_recipe_is_refused_with_the_changed_keys():
    path = write()
    assert stopped("step:9:kill", path, FAST) == KILLED
    with pytest.raises(UserError, match=r"changed recipe: model\.width, trainer\.max_epochs"):
        start(path, FAST, "--model.width=9", "--trainer.max_epochs=7", resume="last")


def test_a_changed_step_is_refused_by_its_name():
    path = two_recipes()
    assert stopped("test:0:kill", path) == KILLED
    with pytest.raises(UserError, match=r"changed recipe: requires\.encoder"):
        start(path, "--requires.encoder.set.trainer.max_epochs=3", resume="last")


def test_where_a_run_is_tracked_may_change():
    path = write()
    assert stopped("step:9:kill", path, FAST) == KILLED
    folder = start(path, FAST, "--tracking.project=other", resume="last")
    assert read(folder).config["tracking"]["project"] == "other"


def test_a_run_of_another_recipe_is_not_resumed():
    assert stopped("step:9:kill", write(), FAST) == KILLED
    with pytest.raises(UserError, match="is a run of tiny, not of other"):
        start(write("other"), FAST, resume=last())


def test_data_that_has_changed_since_is_refused(monkeypatch: pytest.MonkeyPatch):
    path = write()
    assert stopped("step:14:kill", path, FAST) == KILLED
    monkeypatch.setattr(tiny_family.TinyData, "summary", lambda self: {"hash": "another"})
    with pytest.raises(UserError, match="the data has changed since this run began"):
        start(path, FAST, resume="last")


def test_the_record_keeps_what_the_run_began_with_and_notes_what_resumed_it(monkeypatch: pytest.MonkeyPatch):
    path = write()
    assert stopped("step:14:kill", path, FAST) == KILLED
    before = read(last())
    assert before.resumed == []
    later = {"version": "9", "commit": None, "dirty": None}
    monkeypatch.setattr("lightsleeper.experiment.code_state", lambda: later)
    record = read(start(path, FAST, resume="last"))
    assert (record.code, record.environment) == (before.code, before.environment)
    assert [entry["code"] for entry in record.resumed] == [later]


def test_a_running_run_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ready = tmp_path / "ready"
    monkeypatch.setenv("TINY_READY", str(ready))
    path = write()
    process = multiprocessing.get_context("fork").Process(target=stopped, args=("step:9:wait", path, FAST))
    process.start()
    while not ready.exists():
        process.join(0.05)
    writer = read(last()).process
    assert writer is not None
    try:
        assert status_of(read(last())) == "running"
        with pytest.raises(UserError, match="is still running"):
            start(path, FAST, resume="last")
    finally:
        os.kill(writer["pid"], signal.SIGKILL)
        process.join()


def test_a_broken_checkpoint_is_named():
    path = write()
    assert stopped("step:14:kill", path, FAST) == KILLED
    (last() / "checkpoints" / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        start(path, FAST, resume="last")
