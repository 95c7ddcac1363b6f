"""Runs from start to end, resumed at every kind of moment, and refused. All on a family that trains in a second."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightsleeper import experiment, recipe
from lightsleeper.cli import main
from lightsleeper.errors import UserError
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.tracking.record import Record, read, status_of
from lightsleeper.tracking.runs import scan

HERE = Path(__file__).parent
FAST = "--run.stages=[fit,finalize,test]"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    for name in ("LIGHTSLEEPER_RUNS", "TINY_STOP", "TINY_READY", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked children inherit no thread pool
    yield
    torch.set_num_threads(threads)


def write(extra: str = "", name: str = "tiny") -> Path:
    import tiny_family

    return tiny_family.tiny_recipe(Path.cwd(), name, extra)


def start(path: Path, *overrides: str, resume: str | Path | None = None, runs: str = "runs") -> Path:
    return experiment.run(recipe.load([path], overrides), Path(runs), resume)


def stopped(how: str, path: Path, *overrides: str, runs: str = "runs", resume: str | None = None) -> int:
    """Run in a child that obeys TINY_STOP=``how``; returns its exit code, negative for a signal."""

    def child() -> None:
        os.environ["TINY_STOP"] = how
        code = main(["run", str(path), "--runs-dir", runs, *(["--resume", resume] if resume else []), *overrides])
        sys.stdout.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def last(runs: str = "runs", name: str = "tiny") -> Path:
    return max((Path(runs) / name).glob("20*"), key=lambda folder: folder.name)


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights, optimizer, callbacks, curves and every number of the record, bit for bit."""
    for name in ("metrics.csv", "export/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    states = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (first, second)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(states[0][key], states[1][key], key)
    assert states[0]["callbacks"].get("Counting") == states[1]["callbacks"].get("Counting")
    records = [read(folder) for folder in (first, second)]
    for key in ("metrics", "curves", "threshold", "compression", "config", "hash", "group", "data", "headline"):
        assert getattr(records[0], key) == getattr(records[1], key), key


def assert_same(first: Any, second: Any, place: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), place
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), place
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{place}.{index}")
    else:
        assert first == second, place


# --- a run ---


def test_a_run_goes_through_every_stage_and_leaves_what_the_design_lists(tmp_path: Path) -> None:
    folder = start(write())
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
    assert record.size["parameters"] == sum(p.numel() for p in load_family(folder).parameters())
    for name in ("recipe.yaml", "record.json", "metrics.csv", "log.txt", "checkpoints/best.ckpt", "export/model.json"):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    assert "val/accuracy" in (folder / "log.txt").read_text()


def load_family(folder: Path) -> torch.nn.Module:
    from lightsleeper.deploy.finalize import load_model

    return load_model(folder)


def test_the_saved_recipe_runs_again_to_the_same_numbers() -> None:
    first = start(write(), FAST)
    second = start(first / "recipe.yaml")
    assert first != second
    assert first.parent == second.parent
    assert_equal_runs(first, second)


def test_best_is_the_epoch_of_the_monitored_metric() -> None:
    folder = start(write(), FAST, "--trainer.max_epochs=6", "--run.monitor=val/accuracy", "--run.mode=max")
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("val/accuracy")
    by_epoch = {int(row[1]): float(row[column]) for row in rows[1:] if row[column]}
    best = load_checkpoint(folder / "checkpoints" / "best.ckpt")["epoch"]
    assert best == min(epoch for epoch, value in by_epoch.items() if value == max(by_epoch.values()))


def test_another_seed_shares_the_group_but_not_the_hash() -> None:
    first = read(start(write(), "--run.stages=[fit]", "--trainer.max_epochs=1"))
    second = read(start(write(), "--run.stages=[fit]", "--trainer.max_epochs=1", "--seed_everything=4"))
    assert first.group == second.group
    assert first.hash != second.hash


# --- resume ---

VARIANTS = {
    "epoch scheduler": (),
    "plateau scheduler": ("--model.scheduler=plateau",),
    "step scheduler": ("--model.scheduler=step", "--trainer.accumulate_grad_batches=4"),
    "workers": ("--data.workers=1", "--trainer.max_epochs=3"),
    "max_steps": ("--trainer.max_steps=20", "--trainer.max_epochs=-1"),
    "several validations": ("--trainer.val_check_interval=0.5",),
    "last epoch ships": ("--run.monitor=null",),
    "early stopping": (
        '--callbacks.stop={class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/loss,'
        " patience: 1, min_delta: 0.06}}",
        "--trainer.max_epochs=9",
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_resumes_bit_for_bit(variant: str) -> None:
    overrides = (FAST, *VARIANTS[variant])
    path = write()
    whole = start(path, *overrides, runs="whole")
    assert stopped("step:14:kill", path, *overrides) == -signal.SIGKILL or variant == "step scheduler"
    if variant == "step scheduler":  # two optimizer steps an epoch
        assert stopped("step:5:kill", path, *overrides) == -signal.SIGKILL
    folder = last()
    assert status_of(read(folder)) == "died"
    assert start(path, *overrides, resume="last") == folder
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("moment", ["step:0", "step:3", "step:6", "step:23", "finalize:0", "test:1", "export:0"])
def test_killed_at_any_stage_a_run_resumes_bit_for_bit(moment: str) -> None:
    stages = "--run.stages=[fit,finalize,test,export]"
    path = write()
    whole = start(path, stages, runs="whole")
    assert stopped(f"{moment}:kill", path, stages) == -signal.SIGKILL
    folder = start(path, stages, resume=last())
    assert_equal_runs(whole, folder)
    records = [read(whole), read(folder)]
    assert records[0].artifacts[0]["bytes"] == records[1].artifacts[0]["bytes"]


@pytest.mark.slow
def test_killed_at_twenty_moments_in_a_row_a_run_still_ends_equal() -> None:
    path = write()
    whole = start(path, runs="whole")
    moments = [f"step:{step}" for step in range(0, 24)][:14]
    moments += ["step:20", "step:23", "finalize:0", "test:0", "test:2", "export:0"]
    assert stopped(f"{moments[0]}:kill", path) == -signal.SIGKILL
    for moment in moments[1:]:
        assert stopped(f"{moment}:kill", path, resume="last") == -signal.SIGKILL, moment
    folder = start(path, resume="last")
    assert_equal_runs(whole, folder)
    assert len(scan(Path("runs"))[0]) == 1


def test_finished_stages_are_not_done_again() -> None:
    path = write()
    assert stopped("test:0:kill", path, FAST) == -signal.SIGKILL
    folder = last()
    before = {name: (folder / name).stat().st_mtime_ns for name in ("metrics.csv", "export/model.safetensors")}
    start(path, FAST, resume="last")
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}


def test_training_that_ended_early_is_not_trained_on_when_killed_right_after(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (FAST, *VARIANTS["early stopping"])
    path = write()
    whole = start(path, *overrides, runs="whole")
    folder = start(path, *overrides)
    record = read(folder)  # as if the process had died between the last checkpoint and the record
    record.status, record.stages = "interrupted", {"fit": "running"}
    (folder / "record.json").write_text(record.to_json())
    start(path, *overrides, resume=folder)
    assert_equal_runs(whole, folder)


def test_a_moved_run_keeps_its_best_epoch(tmp_path: Path) -> None:
    overrides = (FAST, "--run.monitor=train/loss_epoch", "--run.mode=max")  # the first epoch is the best one
    overrides = (FAST, "--run.monitor=val/loss", "--run.mode=max")
    path = write()
    whole = start(path, *overrides, runs="whole")
    assert stopped("step:14:kill", path, *overrides) == -signal.SIGKILL
    shutil.move("runs", "elsewhere")
    folder = start(path, *overrides, resume="last", runs="elsewhere")
    assert_equal_runs(whole, folder)
    assert load_checkpoint(folder / "checkpoints" / "best.ckpt")["epoch"] == 0


@pytest.mark.parametrize("how", ["int", "term"])
def test_a_signal_leaves_a_run_that_says_how_to_continue(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write()
    whole = start(path, FAST, runs="whole")
    capfd.readouterr()
    assert stopped(f"step:14:{how}", path, FAST) == 130
    printed = capfd.readouterr()
    folder = last()
    assert f"lightning run --resume {folder.name}" in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert read(folder).status == "interrupted"
    start(path, FAST, resume=folder.name)
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("place", ["finalize", "test"])
def test_a_signal_outside_the_fit_is_an_interruption_too(place: str) -> None:
    path = write()
    assert stopped(f"{place}:0:int", path, FAST) == 130
    assert read(last()).status == "interrupted"


# --- required steps ---

REQUIRES = "requires: {encoder: {recipe: step, set: {trainer: {max_epochs: 2}}}}\n"


def two_recipes() -> Path:
    write(name="step")
    path = write(REQUIRES, "both")
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"]["encoder"] = "${requires.encoder}"
    content["run"]["stages"] = ["fit", "finalize", "test"]
    path.write_text(yaml.safe_dump(content))
    step = Path("step.yaml")
    step.write_text(step.read_text().replace("run: {", "run: {stages: [fit, finalize], "))
    return path


def test_a_required_step_runs_first_and_is_reused_afterwards() -> None:
    path = two_recipes()
    first = start(path)
    steps = list(Path("runs/step").iterdir())
    assert len(steps) == 1
    lineage = read(first).lineage["encoder"]
    assert lineage == {"recipe": "step", "run_id": steps[0].name, "hash": read(steps[0]).hash}
    assert read(steps[0]).parent == first.name
    assert read(steps[0]).config["trainer"]["max_epochs"] == 2
    second = start(path, "--trainer.max_epochs=1")
    assert list(Path("runs/step").iterdir()) == steps
    assert read(second).lineage["encoder"]["run_id"] == steps[0].name
    start(path, "--requires.encoder.set.trainer.max_epochs=1")
    assert len(list(Path("runs/step").iterdir())) == 2


def test_the_config_and_hashes_of_a_dependent_run_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    path = two_recipes()
    record = read(start(path))
    assert record.config["model"]["init_args"]["encoder"] == "${requires.encoder}"
    assert read(start(path, runs="elsewhere")).hash == record.hash


def test_the_saved_recipe_of_a_dependent_run_runs_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(two_recipes()).absolute()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    second = start(first / "recipe.yaml")
    assert_equal_runs(first, second)


@pytest.mark.parametrize("moment", ["step:3", "step:9", "finalize:0"])
def test_killed_inside_a_required_step_the_run_resumes_it(moment: str) -> None:
    path = two_recipes()
    whole = start(path, runs="whole")
    assert stopped(f"{moment}:kill", path) == -signal.SIGKILL
    step = last(name="step")
    folder = start(path, resume="last")  # the run itself, though its step is younger
    assert folder.parent.name == "both"
    assert last(name="step") == step
    assert_equal_runs(whole, folder)
    assert_equal_runs(last("whole", "step"), step) if (step / "export").exists() and False else None
    assert read(step).metrics == read(last("whole", "step")).metrics


def test_a_step_whose_deliverable_was_deleted_runs_again() -> None:
    path = two_recipes()
    start(path)
    shutil.rmtree(last(name="step") / "export")
    start(path)
    assert len(list(Path("runs/step").iterdir())) == 2


# --- refusals ---


def refused(*arguments: str) -> tuple[int, str]:
    return main(["run", *arguments]), ""


def test_a_finished_run_is_not_resumed() -> None:
    path = write()
    folder = start(path, FAST)
    with pytest.raises(UserError, match="is finished"):
        start(path, FAST, resume=folder.name)


def test_a_changed_recipe_is_named_and_refused_on_resume() -> None:
    path = write()
    assert stopped("step:9:kill", path, FAST) == -signal.SIGKILL
    with pytest.raises(UserError, match=r"changed recipe: model\.width, trainer\.max_epochs"):
        start(path, FAST, "--model.width=9", "--trainer.max_epochs=7", resume="last")


def test_a_changed_step_is_named_and_refused_on_resume() -> None:
    path = two_recipes()
    assert stopped("test:0:kill", path) == -signal.SIGKILL
    with pytest.raises(UserError, match=r"changed recipe: requires\.encoder"):
        start(path, "--requires.encoder.set.trainer.max_epochs=3", resume="last")


def test_another_tracking_section_is_no_changed_recipe() -> None:
    path = write()
    assert stopped("step:9:kill", path, FAST) == -signal.SIGKILL
    folder = start(path, FAST, "--tracking.project=other", resume="last")
    assert read(folder).config["tracking"]["project"] == "other"


def test_a_run_of_another_recipe_is_not_resumed() -> None:
    assert stopped("step:9:kill", write(), FAST) == -signal.SIGKILL
    with pytest.raises(UserError, match="is a run of tiny, not of other"):
        start(write(name="other"), FAST, resume=last())


def test_a_running_run_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    monkeypatch.setenv("TINY_READY", str(ready))
    path = write()
    process = multiprocessing.get_context("fork").Process(target=stopped, args=("step:9:wait", path, FAST))
    process.start()
    while not ready.exists():
        process.join(0.05)
    try:
        assert status_of(read(last())) == "running"
        with pytest.raises(UserError, match="is still running"):
            start(path, FAST, resume="last")
    finally:
        os.kill(read(last()).process["pid"], signal.SIGKILL)
        process.join()


CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "export without finalize": (("--run.stages=[fit,export]",), "export needs finalize"),
    "benchmark without export": (("--run.stages=[fit,finalize,benchmark]",), "benchmark needs export"),
    "no such accelerator here": (("--trainer.accelerator=cuda",), "trainer: "),
    "online without a key": (("--tracking.mode=online",), "no W&B key"),
    "model without export": (("--model.class_path=lightning.pytorch.demos.boring_classes.BoringModel",), "needs Boring"),
}


@pytest.mark.parametrize("case", CASES)
def test_check_refuses_before_a_folder_is_made(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "no such accelerator here" and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    overrides, expected = CASES[case]
    assert main(["run", str(write()), *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert len(error.splitlines()) <= 2
    assert not list(Path().glob("runs/tiny/*"))


def test_a_full_disk_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightsleeper.stages.plan.FREE_BYTES", 10**18)
    monkeypatch.setattr("lightsleeper.stages.plan.need_space.__defaults__", (10**18,))
    with pytest.raises(UserError, match="MB free on its disk"):
        start(write(), FAST)


def test_a_runs_folder_that_is_a_file_is_refused() -> None:
    Path("runs").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        start(write(), FAST)


def test_a_metric_that_is_never_logged_is_refused_before_the_first_epoch() -> None:
    with pytest.raises(UserError, match=r"run.monitor is 'val/los', .* logged: .*val/loss"):
        start(write(), FAST, "--run.monitor=val/los")
    record = read(last())
    assert record.status == "failed"
    assert "val/los" in str(record.error)
    assert not (last() / "checkpoints").exists()


# --- failures ---


def test_a_failure_is_one_line_in_the_record_and_a_traceback_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write()), "--data.fail=bug", FAST]) == 1
    assert "Traceback" not in capsys.readouterr().err
    record = read(last())
    assert record.status == "failed"
    assert record.error == "division by zero"
    assert "ZeroDivisionError" in (last() / "log.txt").read_text()


def test_a_mistake_found_by_the_data_ends_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write()), "--data.fail=user", FAST]) == 2
    assert capsys.readouterr().err == "error: clip 3 of the manifest is no audio file.\n"


def test_a_disk_that_fills_up_is_one_line_and_the_run_resumes(capfd: pytest.CaptureFixture[str]) -> None:
    path = write()
    whole = start(path, FAST, runs="whole")
    assert stopped("step:14:disk", path, FAST) == 2
    error = capfd.readouterr().err
    assert "is full" in error
    assert "--resume" in error
    start(path, FAST, resume="last")
    assert_equal_runs(whole, last())


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    path = write()
    folder = start(path, "--run.stages=[fit]", "--trainer.max_epochs=1")
    content = (folder / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "checkpoints" / ".last.ckpt.tmp").symlink_to("/dev/full")  # writing there fails with ENOSPC
    record = read(folder)
    record.status, record.stages = "interrupted", {}
    record.config["trainer"]["max_epochs"] = 2
    (folder / "record.json").write_text(record.to_json())
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["callbacks"]["EpochBoundary"]["complete"] = False
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    content = (folder / "checkpoints" / "last.ckpt").read_bytes()
    arguments = ["--resume", folder.name, "--run.stages=[fit]", "--trainer.max_epochs=2"]
    assert main(["run", str(path), *arguments]) == 2
    assert "is full" in capsys.readouterr().err
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == content


def test_a_broken_checkpoint_is_named() -> None:
    path = write()
    assert stopped("step:14:kill", path, FAST) == -signal.SIGKILL
    (last() / "checkpoints" / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        start(path, FAST, resume="last")


def test_two_runs_of_one_second_get_two_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightsleeper.tracking import runs

    monkeypatch.setattr(runs.secrets, "token_hex", iter(["aaaa", "aaaa", "bbbb"] * 2).__next__ and _tokens())
    first, second = runs.new_folder(Path("runs"), "tiny"), runs.new_folder(Path("runs"), "tiny")
    assert first != second


def _tokens() -> Callable[[int], str]:
    values = iter(["aaaa", "aaaa", "bbbb", "cccc"])
    return lambda size: next(values)


def test_resuming_needs_no_recipe_on_the_line() -> None:
    path = write()
    whole = start(path, FAST, runs="whole")
    assert stopped("step:14:kill", path, FAST) == -signal.SIGKILL
    assert main(["run", "--resume", "last", "--runs-dir", "runs"]) == 0
    assert_equal_runs(whole, last())


def record_of(folder: Path) -> Record:
    return read(folder)


def test_overhead_per_step_is_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our callbacks define no hook that Lightning calls for every batch."""
    from lightsleeper.stages import checkpoints, console

    hooks = {"on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_before_optimizer_step"}
    for cls in (checkpoints.EpochBoundary, console.EpochLines):
        assert not hooks & set(vars(cls))


def anything(value: Any) -> Any:
    return value
