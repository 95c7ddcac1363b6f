"""Multiple choice through the commands: a run's second test, other data, and lm-eval on the same items."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightsleeper.data.lm_eval_task import NAME
from lightsleeper.tracking.record import read
from tiny_hosts import LLAMA, lm_recipe, write_texts
from tiny_runs import last, prepare, start

ITEMS = 40
WINDOW = 240


def write_recipe() -> Path:
    """A tiny language model that is tested on choices too, and written as a folder for transformers."""
    write_texts(Path("texts"), words=1000)
    path = lm_recipe(
        Path("tiny.yaml"),
        "CausalLM",
        run={"formats": ["transformers"], "stages": ["fit", "finalize", "test", "export"]},
    )
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["config"] = LLAMA | {"max_position_embeddings": WINDOW}
    config["data"]["init_args"] |= {"context_tokens": WINDOW, "choice_items": ITEMS}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.yaml`` and its finished run, made once for all tests."""
    folder = tmp_path_factory.mktemp("choices")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, folder)
        start(write_recipe())
    return folder


@pytest.fixture
def trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(monkeypatch, home)
    return last()


def test_a_run_is_tested_on_choices_and_evaluate_finds_the_same(trained: Path, cli: Callable) -> None:
    record = read(trained)
    assert record.headline == ["test/bits_per_byte", "test/perplexity", "test/choices/accuracy"]
    accuracy = record.metrics["test/choices/accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert record.metrics["test/choices/majority_accuracy"]["value"] == 0.25
    assert record.metrics["test/choices/length_accuracy"]["value"] == 0.25
    outcomes = json.loads((trained / "test.json").read_text())["choices"]
    hits = [answer == chosen for answer, chosen in zip(outcomes["answers"], outcomes["chosen"], strict=True)]
    assert sum(hits) / ITEMS == pytest.approx(accuracy["value"])

    done = cli("evaluate", str(trained), "--json", "out.json")
    assert done.code == 0, done.err
    found = json.loads(Path("out.json").read_text())["sets"]
    assert found["choices"]["shipped"]["accuracy"] == accuracy
    assert found["test"]["shipped"]["bits_per_byte"] == record.metrics["test/bits_per_byte"]
    for other in ("out.json", trained / "test.json"):
        again = cli("evaluate", str(trained), "--against", str(other), "--json", "again.json")
        assert again.code == 0, again.err
        paired = json.loads(Path("again.json").read_text())["sets"]["choices"]["shipped"]
        assert (paired["gain_over_other"]["value"], paired["mcnemar_other"]["value"]) == (0, 1)
    no_items = cli("evaluate", str(trained), "--split", "val", "--against", "out.json")
    assert (no_items.code, "these data ask no multiple choice" in no_items.err) == (2, True)
    outcomes["answers"].reverse()
    Path("other.json").write_text(json.dumps({"choices": outcomes}))
    for other, message in (("other.json", "asked other items"), ("tiny.yaml", "no outcomes of multiple choice")):
        refused = cli("evaluate", str(trained), "--against", other)
        assert refused.code == 2
        assert message in refused.err


def test_a_run_answers_questions_of_a_table(trained: Path, cli: Callable) -> None:
    rows = [{"question": f"{n} and?", "choices": ["def", "return"], "answer": n % 2} for n in range(10)]
    Path("asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("asked.yaml").write_text("data: {class_path: MultipleChoice, init_args: {dataset: asked.jsonl}}\n")
    done = cli("evaluate", str(trained), "--data", "asked.yaml", "--json", "out.json")
    assert done.code == 0, done.err
    found = json.loads(Path("out.json").read_text())["sets"]["choices"]["shipped"]
    assert found["accuracy"]["method"] == "Clopper-Pearson"
    assert found["accuracy"]["n"] == 10
    untrainable = cli("run", "tiny.yaml", "asked.yaml", "--runs-dir", "other")
    assert untrainable.code == 2
    assert "MultipleChoice is test data only" in untrainable.err
    tested = cli("run", "tiny.yaml", "asked.yaml", "--runs-dir", "tested", "--run.stages=[test]")
    assert tested.code == 0, tested.err
    assert "test/choices/accuracy" in read(last(runs="tested")).metrics
    Path("asked.jsonl").write_text(json.dumps({**rows[0], "question": "long " * 100}) + "\n")
    refused = cli("evaluate", str(trained), "--data", "asked.yaml")
    assert refused.code == 2
    assert f"the model has positions for {WINDOW}" in refused.err


def test_items_are_written_only_where_there_are_some(trained: Path, cli: Callable) -> None:
    done = cli("data", "items", "tiny.yaml", "--out", "task")
    assert done.code == 0, done.err
    assert (
        f"lm_eval --model hf --model_args pretrained=RUN/export/transformers,dtype=float32 --tasks {NAME}" in done.out
    )
    rows = [json.loads(line) for line in Path("task", f"{NAME}.jsonl").read_text().splitlines()]
    assert len(rows) == ITEMS
    assert set(rows[0]) == {"context", "choices", "answer", "group"}
    task = yaml.safe_load(Path("task", f"{NAME}.yaml").read_text())
    assert Path(task["dataset_kwargs"]["data_files"]["test"]) == Path("task", f"{NAME}.jsonl").resolve()
    refused = cli("data", "items", "tiny.yaml", "--out", "task", "--data.choice_items=null")
    assert refused.code == 2
    assert "LocalText has no multiple-choice items: give LocalText data.choice_items" in refused.err


@pytest.mark.slow
def test_lm_eval_chooses_the_same_from_the_exported_folder(trained: Path, cli: Callable, monkeypatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert cli("data", "items", "tiny.yaml", "--out", "task").code == 0
    model = HFLM(str(trained / "export" / "transformers"), dtype="float32", device="cpu", batch_size=8)
    tasks = TaskManager(include_path="task", include_defaults=False)
    done = simple_evaluate(model, tasks=[NAME], task_manager=tasks, bootstrap_iters=0, log_samples=True)
    record, found = read(trained), done["results"][NAME]
    assert found["acc,none"] == pytest.approx(record.metrics["test/choices/accuracy"]["value"])
    assert found["acc_bytes,none"] == pytest.approx(record.metrics["test/choices/accuracy_per_byte"]["value"])
    chosen = json.loads((trained / "test.json").read_text())["choices"]["chosen"]
    samples = sorted(done["samples"][NAME], key=lambda sample: sample["doc_id"])
    sums = [[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in samples]
    assert [values.index(max(values)) for values in sums] == chosen
