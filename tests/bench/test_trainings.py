import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lightsleeper.bench import trainings as shared
from lightsleeper.bench.trainings import Arm, Group, train
from lightsleeper.bench.wakeword_arms import trainings
from lightsleeper.errors import UserError


def test_a_required_step_is_a_run_of_the_arm_that_it_is():
    first = Arm("base", "kws_dsp", ("--model.lr=0.1",), "base", ("overlays/small",))
    second = Arm("tuned", "kws_finetune", ("--model.lr=0.2",), "tuned", step=("base", first.overrides))
    groups = {"g": Group("g", "tuned is better", (first, second), (("base", "tuned"),))}
    found = list(shared.trainings(groups, ["g"], 2, ["--data.seed=0"]))
    assert [(t.arm.name, t.seed) for t in found] == [("base", 7), ("tuned", 7), ("base", 8), ("tuned", 8)]
    assert found[0].arm.files == ("kws_dsp", "overlays/small")
    assert found[0].overrides == ("--model.lr=0.1", "--data.seed=0", "--seed_everything=7")
    assert found[1].overrides == (
        "--model.lr=0.2", "--data.seed=0", "--seed_everything=7", "--requires.base.set.model.lr=0.1",
        "--requires.base.set.data.seed=0", "--requires.base.set.seed_everything=7",
    )  # fmt: skip


def test_a_finished_training_is_taken_and_a_stopped_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = next(trainings(["branches"], 1, True))
    todo, commands = training.plan, []
    folder = tmp_path / todo.recipe.name / "20260101-000000-aaaa"
    folder.mkdir(parents=True)

    def record(status: str) -> None:
        content = {"run_id": folder.name, "recipe": todo.recipe.name, "family": "WakeWordCNN", "seed": 7, "group": "g",
                   "hash": todo.hash, "config": {}, "knobs": {}, "status": status, "schema": 1,
                   "stages": dict.fromkeys(todo.settings.stages, "finished"),
                   "artifacts": [{"format": "onnx", "path": "export/model.onnx"}]}  # fmt: skip
        (folder / "record.json").write_text(json.dumps(content))

    def run(command: list[str]) -> tuple[int, list[str]]:
        commands.append(command)
        (folder / "export").mkdir(exist_ok=True)
        for name in ("model.json", "model.onnx"):
            (folder / "export" / name).write_text("{}")
        record("finished")
        return 0, []

    monkeypatch.setattr(shared, "_run", run)
    record("interrupted")
    assert train(training, tmp_path) == folder
    assert commands[0][-4:] == ["--resume", str(folder), "--runs-dir", str(tmp_path)]
    assert train(training, tmp_path) == folder
    assert len(commands) == 1


def test_a_training_that_fails_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "_run", lambda _: (2, ["a warning", "error: no disk"]))
    with pytest.raises(UserError, match=r"plain, seed 7: error: no disk"):
        train(next(trainings(["branches"], 1, True)), tmp_path)


def test_what_a_program_prints_last_and_how_it_ended():
    code = "import sys; print('of no use'); print('error: why', file=sys.stderr); sys.exit(2)"
    assert shared._run([sys.executable, "-c", code]) == (2, ["error: why"])


def test_who_is_stopped_stops_its_trainings():
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(shared._run, [sys.executable, "-c", "import time; time.sleep(60)"])
        next_one = pool.submit(shared._run, [sys.executable, "-c", ""])
        while not shared._running:
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt), shared._stopping(pool):
            raise KeyboardInterrupt
    assert training.result()[0] == -signal.SIGTERM
    assert next_one.cancelled()
    assert time.monotonic() - began < 30
