"""Runs from start to end, their required steps, and what is refused or fails, and how."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
from lightsleeper import experiment, recipe
from lightsleeper.cli import main
from lightsleeper.deploy.finalize import load_model
from lightsleeper.errors import UserError
from lightsleeper.stages import checkpoints, console
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.stages.sweep import SweepTrial
from lightsleeper.tracking import runs
from lightsleeper.tracking.record import read
from tiny_runs import FAST, assert_equal_runs, last, prepare, start, stopped, two_recipes, uninterrupted, write

SHORT = ("--run.stages=[fit]", "--trainer.max_epochs=1")


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


# --- a run ---


def test_a_run_goes_through_every_stage_and_leaves_what_the_design_lists():
    folder = uninterrupted()
    record = read(folder)
    assert record.status == "finished"
    assert list(record.stages) == ["fit", "finalize", "test", "export", "benchmark"]
    assert set(record.stages.values()) == {"finished"}
    assert record.metrics["test/accuracy"]["low"] is not None
    assert record.headline == ["test/accuracy"]
    assert record.data["hash"] == "abc"
    assert record.context["past_ms"] == 100.0
    artifact = record.artifacts[0]
    assert (folder / artifact["path"]).is_file()
    assert artifact["latency"][0]["p50_ms"] > 0
    assert record.size["parameters"] == sum(value.numel() for value in load_model(folder).parameters())
    for name in ("recipe.yaml", "metrics.csv", "log.txt", "checkpoints/best.ckpt", "export/model.json"):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    assert "val/accuracy" in (folder / "log.txt").read_text()


def test_the_saved_recipe_runs_again_to_the_same_numbers():
    first = uninterrupted(FAST)
    second = start(first / "recipe.yaml")
    assert second.parent.name == first.parent.name
    assert_equal_runs(first, second)


def test_best_is_the_epoch_of_the_monitored_metric():
    folder = start(write(), "--run.stages=[fit]", "--run.monitor=val/accuracy", "--run.mode=max")
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("val/accuracy")
    by_epoch = {int(row[1]): float(row[column]) for row in rows[1:] if row[column]}
    best = load_checkpoint(folder / "checkpoints" / "best.ckpt")["epoch"]
    assert best == min(epoch for epoch, value in by_epoch.items() if value == max(by_epoch.values()))


def test_the_best_epoch_is_what_ships():
    folder = uninterrupted(FAST, "--run.mode=max")
    best = load_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]["net.0.weight"]
    newest = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]["net.0.weight"]
    shipped = load_model(folder).state_dict()["net.0.weight"]
    assert torch.equal(shipped, best)
    assert not torch.equal(shipped, newest)


def test_another_seed_shares_the_group_but_not_the_hash():
    first, second = read(start(write(), *SHORT)), read(start(write(), *SHORT, "--seed_everything=4"))
    assert first.group == second.group
    assert first.hash != second.hash


def test_two_runs_of_one_second_get_two_folders_in_their_order(monkeypatch: pytest.MonkeyPatch):
    noon = datetime(2026, 11, 23, 12)
    monkeypatch.setattr(runs, "datetime", type("Noon", (), {"now": staticmethod(lambda: noon)}))
    names = [runs.new_folder(Path("runs"), name).name for name in ("b", "a", "b", "a")]
    assert names == sorted(set(names))
    assert {name[:-4] for name in names} == {"20261123-120000-"}


def test_nothing_of_ours_is_called_for_every_step():
    hooks = {"on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_before_optimizer_step"}
    for cls in (checkpoints.EpochBoundary, checkpoints.BestCheckpoint, console.EpochLines):
        assert not hooks & set(vars(cls))


@pytest.mark.slow
def test_two_processes_train_one_run():
    overrides = ["--trainer={accelerator: cpu, devices: 2, strategy: ddp}", FAST]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "lightsleeper", "run", str(write()), *overrides], env=environ, check=True)
    (folder,) = Path("runs/tiny").iterdir()
    record = read(folder)
    assert record.status == "finished"
    assert record.metrics["test/accuracy"]["n"] == 48
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 12  # half of one process' steps


# --- required steps ---


def test_a_run_that_compresses_keeps_the_numbers_of_the_step_of_its_family_as_before():
    path = two_recipes()
    settings = ("--trainer.max_epochs=1", "--requires.encoder.set.run.stages=[fit, finalize, test]")
    plain = start(path, *settings)
    pruned = start(path, *settings, "--callbacks.prune.class_path=tiny_family.TinyPrune")
    assert read(plain).reference == {}
    assert read(pruned).reference["metrics"] == read(last("step")).metrics != {}


def test_a_required_step_runs_first_and_is_reused_afterwards():
    path = two_recipes()
    first = start(path)
    step = last("step")
    assert read(first).lineage["encoder"] == {"recipe": "step", "run_id": step.name, "hash": read(step).hash}
    assert read(step).parent == first.name
    assert read(step).config["trainer"]["max_epochs"] == 2
    second = start(path, "--trainer.max_epochs=1")
    assert read(second).lineage["encoder"]["run_id"] == step.name
    start(path, "--requires.encoder.set.trainer.max_epochs=1")
    assert len(list(Path("runs/step").iterdir())) == 2


def test_a_step_whose_deliverable_was_deleted_runs_again():
    path = two_recipes()
    start(path, "--trainer.max_epochs=1")
    (last("step") / "export" / "model.json").unlink()
    start(path, "--trainer.max_epochs=1")
    assert len(list(Path("runs/step").iterdir())) == 2


def test_a_step_that_finished_without_a_format_asked_for_runs_again():
    path = two_recipes()
    formats = "--requires.encoder.set.run={stages: [fit, finalize, export], formats: %s}"
    for asked in ("[onnx]", "[onnx, packed]", "[packed]"):
        start(path, "--trainer.max_epochs=1", formats % asked)
    assert [artifact["format"] for artifact in read(last("step")).artifacts] == ["onnx", "packed"]
    assert len(list(Path("runs/step").iterdir())) == 2


def test_a_step_that_ships_by_another_metric_is_another_step():
    path = two_recipes()
    start(path, "--trainer.max_epochs=1")
    start(path, "--trainer.max_epochs=1", "--requires.encoder.set.run.mode=max")
    assert len(list(Path("runs/step").iterdir())) == 2


def test_the_record_of_a_dependent_run_holds_no_path_of_this_machine():
    record = read(uninterrupted(required=True))
    assert record.config["model"]["init_args"]["encoder"] == "${requires.encoder}"
    assert "/whole-" not in record.to_json()


def test_the_saved_recipe_of_a_dependent_run_runs_from_another_folder():
    first = uninterrupted(required=True)
    assert_equal_runs(first, start(first / "recipe.yaml"))


# --- refusals ---

CASES: dict[str, tuple[str, str]] = {
    "export without finalize": ("--run.stages=[fit,export]", "export needs finalize"),
    "benchmark without export": ("--run.stages=[fit,finalize,benchmark]", "benchmark needs export"),
    "no such accelerator here": ("--trainer.accelerator=cuda", "trainer: "),
    "online without a key": ("--tracking.mode=online", "no W&B key"),
    "model without export": (
        "--model.class_path=lightning.pytorch.demos.boring_classes.BoringModel",
        "finalize needs BoringModel.architecture()",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_refuses_in_one_line_before_a_folder_is_made(case: str, capsys: pytest.CaptureFixture[str]):
    override, expected = CASES[case]
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["run", str(write()), override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert len(error.splitlines()) == 1
    assert not list(Path().glob("runs/tiny/*"))


def test_too_little_disk_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    with pytest.raises(UserError, match="1 MB free on its disk, 300 MB needed"):
        start(write(), FAST)
    assert not list(Path().glob("runs/tiny/*"))


def test_a_runs_folder_that_cannot_be_written_is_refused():
    Path("runs").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        start(write(), FAST)


def test_a_metric_that_is_never_logged_is_refused_before_the_first_epoch():
    with pytest.raises(UserError, match=r"run.monitor is 'val/los', .* logged: .*val/loss"):
        start(write(), FAST, "--run.monitor=val/los")
    assert read(last()).status == "failed"
    assert not (last() / "checkpoints").exists()


# --- failures ---


def test_a_failure_is_one_line_in_the_record_and_a_traceback_in_the_log(capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(write()), "--data.fail=bug", FAST]) == 1
    assert "Traceback" not in capsys.readouterr().err
    record = read(last())
    assert record.status == "failed"
    assert record.error == "ZeroDivisionError: division by zero"
    assert "Traceback" in (last() / "log.txt").read_text()


def test_a_mistake_found_by_the_data_ends_with_its_own_line(capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(write()), "--data.fail=user", FAST]) == 2
    assert capsys.readouterr().err == "error: clip 3 of the manifest is no audio file.\n"


@pytest.mark.parametrize(("fault", "left"), [(ZeroDivisionError, "failed"), (KeyboardInterrupt, "deferred")])
def test_a_stage_left_for_later_cannot_undo_a_finished_run(
    fault: type[BaseException], left: str, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> dict[str, object]:
        raise fault("no timer")

    trial = SweepTrial({"metric": "val/loss"}, frozenset({"benchmark"}))
    folder = experiment.run(recipe.load([write()], []), Path("runs"), sweep=trial)
    metrics = read(folder).metrics
    with monkeypatch.context() as patch:
        patch.setattr(experiment.deliver, "benchmark", broken)
        for _ in range(2):
            with pytest.raises(fault):
                experiment.run(None, Path("runs"), folder)
            record = read(folder)
            assert (record.status, record.stages["benchmark"], record.metrics) == ("finished", left, metrics)
    assert record.error == ("ZeroDivisionError: no timer" if left == "failed" else None)
    experiment.run(None, Path("runs"), folder)
    record = read(folder)
    assert (record.status, record.stages["benchmark"], record.error) == ("finished", "finished", None)
    with pytest.raises(UserError, match="is finished"):
        experiment.run(None, Path("runs"), folder)


def test_a_failed_step_fails_the_run_that_required_it():
    with pytest.raises(UserError, match="clip 3"):
        start(two_recipes(), "--requires.encoder.set.data.fail=user")
    assert read(last("both")).status == read(last("step")).status == "failed"


def test_a_disk_that_fills_up_is_one_line_and_the_run_resumes(capfd: pytest.CaptureFixture[str]):
    path = write()
    assert stopped("step:14:disk", path, FAST) == 2
    error = capfd.readouterr().err
    assert "is full" in error
    assert "--resume" in error
    assert_equal_runs(uninterrupted(FAST), start(path, FAST, resume="last"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_checkpoint_that_finds_no_room_leaves_the_last_one(tmp_path: Path):
    target = tmp_path / "last.ckpt"
    io = checkpoints.AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, target)
    (tmp_path / ".last.ckpt.tmp").symlink_to("/dev/full")  # every write fails with ENOSPC
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"step": torch.zeros(100_000)}, target)
    assert load_checkpoint(target) == {"step": 1}


def test_a_checkpoint_that_could_not_be_read_back_is_refused_when_it_is_first_written(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot be read back safely: .*PosixPath"):
        checkpoints.AtomicCheckpointIO().save_checkpoint({"path": tmp_path}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []
