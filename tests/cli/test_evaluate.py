import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
from lightsleeper.tracking.record import read
from tiny_matcher import tiny_runs
from tiny_runs import FAST, prepare, start, write

RUN = "20260101-000000-abcd"
TEXTS = ("yes", "no", "stop", "go")


@pytest.fixture
def recordings(tmp_path):
    """Twelve noisy clips of four texts by three speakers, with a manifest."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    generator = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "speaker"])
        for index in range(12):
            clip = generator.standard_normal(9_000 + 500 * index) * 0.2
            soundfile.write(folder / f"{index}.wav", clip, 16_000)
            writer.writerow([f"{index}.wav", TEXTS[index % 4], f"speaker {index % 3}"])
    return folder


def _evaluate(cli, source, *words):
    return cli("evaluate", source, "--runs-dir", str(tiny_runs()), *words)


def test_run_and_file_give_the_same_numbers_with_intervals(cli, recordings, tmp_path):
    found = {}
    for source in (RUN, str(tiny_runs() / "tiny" / RUN / "export" / "model.onnx")):
        done = _evaluate(cli, source, "--data", str(recordings), "--json", str(tmp_path / "out.json"))
        assert done.code == 0, done.err
        content = json.loads((tmp_path / "out.json").read_text())
        found[content["conditions"]["runtime"].split()[0]] = content["sets"]["test"]["shipped"]
        assert "auc_hard" in done.out
        assert "shipped" in done.out
        assert "95 % interval" in done.out
    assert found["torch"].keys() == found["onnxruntime"].keys()
    for name, measured in found["torch"].items():
        for part in ("value", "low", "high"):
            other = found["onnxruntime"][name][part]
            assert measured[part] == (None if other is None else pytest.approx(other, abs=1e-3))
    hard = found["torch"]["auc_hard"]
    assert 0 <= hard["low"] <= hard["value"] <= hard["high"] <= 1
    assert hard["n"] > 0


def test_the_data_section_of_a_recipe_is_used(cli, recordings, tmp_path):
    recipe = tmp_path / "data.yaml"
    init = {"path": str(recordings), "evaluate_only": True, "max_test_clips": 5}
    recipe.write_text(f"data: {{class_path: AudioFolder, init_args: {json.dumps(init)}}}\n")
    done = _evaluate(cli, RUN, "--data", str(recipe), "--json", str(tmp_path / "out.json"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out.json").read_text())["sets"]["test"]["shipped"]["auc_easy"]["value"] is not None


def test_without_data_a_run_is_scored_on_its_own(cli, recordings, tmp_path):
    folder = shutil.copytree(tiny_runs() / "tiny" / RUN, tmp_path / "runs" / "tiny" / RUN)
    assert "so its own data are not known: give --data" in cli("evaluate", str(folder)).err
    init = {"path": str(recordings), "evaluate_only": True}
    (folder / "recipe.yaml").write_text(f"data: {{class_path: AudioFolder, init_args: {json.dumps(init)}}}\n")
    for source in (folder, folder / "export" / "model.onnx"):
        assert cli("evaluate", str(source), "--json", str(tmp_path / "own.json")).code == 0
        assert cli("evaluate", str(source), "--data", str(recordings), "--json", str(tmp_path / "given.json")).code == 0
        own, given = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "given"))
        assert own["sets"] == given["sets"]


def test_the_best_of_several_pronunciations_counts(cli, recordings, tmp_path):
    manifest = recordings / "manifest.csv"
    text = manifest.read_text()
    for word, of_two_ways in zip(TEXTS, ("read", "route", "either", "data"), strict=True):
        text = text.replace(f",{word},", f",{of_two_ways},")
    manifest.write_text(text)
    found = {}
    for most in (None, 1, 2, 8):
        words = [] if most is None else ["--pronunciations", str(most)]
        done = _evaluate(cli, RUN, "--data", str(recordings), "--json", str(tmp_path / "out.json"), *words)
        assert done.code == 0, done.err
        content = json.loads((tmp_path / "out.json").read_text())
        assert content["conditions"]["pronunciations"] == most
        assert ("the best of" in done.out) == (most is not None)
        found[most] = content["sets"]
    assert found[None] == found[1]
    assert found[2] != found[1]
    assert found[8] == found[2]  # no text here has a third


@pytest.mark.parametrize("option", ["--phrase", "--negatives", "--threshold"])
def test_options_of_wake_words_are_refused_for_a_matcher(cli, recordings, option):
    failed = _evaluate(cli, RUN, "--data", str(recordings), option, "0.5")
    assert failed.code == 2
    assert f"{option} is for wake words" in failed.err


def test_a_comparison_by_items_is_refused_for_what_answers_none(cli, recordings):
    failed = _evaluate(cli, RUN, "--data", str(recordings), "--against", "other.json")
    assert failed.code == 2
    assert "--against is for runs of a CausalLM" in failed.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["EMPTY"], "has no manifest.csv"),
        (["FOLDER", "none.yaml"], "expected folders only, or a recipe and overlays only"),
        (["none.yaml"], "none.yaml"),
        (["NODATA"], "the recipe has no section 'data'"),
        (["WRONG"], "AudioFolder has no argument 'pth'. Did you mean 'path'?"),
        (["UNKNOWN"], "no shipped class 'AudioFoldr'. Did you mean 'AudioFolder'?"),
        (["FOLDER", "--split", "val"], "a folder is test data as a whole"),
    ],
)
def test_mistakes_are_one_line(cli, recordings, tmp_path, data, message):
    (tmp_path / "empty").mkdir()
    contents = {
        "NODATA": "trainer: {max_epochs: 1}",
        "WRONG": "data: {class_path: AudioFolder, init_args: {pth: x}}",
        "UNKNOWN": "data: {class_path: AudioFoldr}",
    }
    for name, text in contents.items():
        (tmp_path / f"{name}.yaml").write_text(text + "\n")
    names = {"EMPTY": str(tmp_path / "empty"), "FOLDER": str(recordings)}
    names |= {name: str(tmp_path / f"{name}.yaml") for name in contents}
    failed = _evaluate(cli, RUN, "--data", *(names.get(word, word) for word in data))
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1


def test_a_file_that_scores_no_keyword_is_refused(cli, recordings):
    enroll = tiny_runs() / "tiny" / RUN / "export" / "enroll.onnx"
    failed = _evaluate(cli, str(enroll), "--data", str(recordings))
    assert failed.code == 2
    assert "encoder that scores no keyword" in failed.err


def test_any_other_family_is_judged_by_what_its_own_test_measures(cli, tmp_path, monkeypatch):
    prepare(monkeypatch, tmp_path)
    folder = start(write(), FAST)
    done = cli("evaluate", str(folder), "--json", "out.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())["sets"]["test"]["shipped"]
    assert found["accuracy"] == read(folder).metrics["test/accuracy"]
    assert "accuracy" in done.out
    validated = cli("evaluate", str(folder), "--split", "val", "--json", "val.json")
    assert validated.code == 0, validated.err
    assert list(json.loads((tmp_path / "val.json").read_text())["sets"]) == ["val"]
    refused = cli("evaluate", str(folder), "--data", str(tmp_path))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "needs the data of a recipe" in refused.err


def test_a_file_that_takes_no_text_is_refused_in_one_line(cli, tmp_path, monkeypatch):
    prepare(monkeypatch, tmp_path)
    folder = start(write(), "--run.stages=[fit,finalize,export]", "--trainer.max_epochs=1")
    refused = cli("evaluate", str(folder / "export" / "model.onnx"), "--data", str(tmp_path))
    assert refused.code == 2
    assert "give its run instead" in refused.err
