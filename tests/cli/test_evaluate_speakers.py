import json

import pytest
from data.talking_video import HEADER, face_rows, write_video
from deploy.face_graphs import clip_graph, step_graph
from lightsleeper.cli import main

BOX = "0.1,0.2,0.3,0.4"


def write(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Five faces of five videos, ranked as in the golden value: + - + + - gives 0.8333."""
    labels = ["SPEAKING_AUDIBLE", "SPEAKING_NOT_AUDIBLE", "SPEAKING_AUDIBLE", "SPEAKING_AUDIBLE", "NOT_SPEAKING"]
    truth = [f"v{i},1.0,{BOX},{label},v{i}:0" for i, label in enumerate(labels)]
    predictions = [f"v{i},1.0,{BOX},SPEAKING_AUDIBLE,v{i}:0,{0.9 - i / 10:.1f}" for i in range(5)]
    return write(tmp_path / "pred.csv", predictions), write(tmp_path / "truth.csv", truth)


def test_predictions_are_judged_by_the_official_rules(files, tmp_path, capsys):
    predictions, truth = files
    assert main(["evaluate", predictions, "--truth", truth, "--json", str(tmp_path / "out.json")]) == 0
    assert "5 rows of 5 faces in 5 videos" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert metrics["map"]["value"] == pytest.approx(0.8333333)
    assert metrics["map"]["n"] == 5
    assert metrics["map_faces1"]["value"] == metrics["map"]["value"]


def test_a_missing_row_is_one_line_and_exit_code_2(files, capsys):
    predictions, truth = files
    with open(predictions) as file:
        rows = file.read().splitlines()
    write_rows = "\n".join(rows[:-1]) + "\n"
    with open(predictions, "w") as file:
        file.write(write_rows)
    assert main(["evaluate", predictions, "--truth", truth]) == 2
    error = capsys.readouterr().err
    assert "lacks 1 row (line 5: v4:0 of v4 at 1 s)" in error
    assert error.count("\n") == 1


def test_predictions_need_the_ground_truth_and_nothing_else_takes_it(files, capsys):
    assert main(["evaluate", files[0]]) == 2
    assert "--truth TRUTH.csv" in capsys.readouterr().err
    assert main(["evaluate", "last", "--truth", files[1]]) == 2
    assert "--truth is for predictions" in capsys.readouterr().err


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A recipe of own clips, in which the brighter face speaks."""
    pytest.importorskip("av")
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path)
    write(tmp_path / "faces.csv", [HEADER, *face_rows()])
    write(
        tmp_path / "clips.yaml",
        ["# Own clips.", "model: {class_path: ActiveSpeaker}",
         "data: {class_path: SpeakerClips, init_args: {path: ., size: 16, evaluate_only: true}}"],
    )  # fmt: skip


@pytest.mark.parametrize("graph", [step_graph, clip_graph])
def test_an_exported_file_is_judged_and_its_predictions_judge_alike(clips, tmp_path, capsys, graph):
    graph(tmp_path / "model.onnx")
    assert main(["evaluate", "model.onnx", "--data", "clips.yaml", "--predictions", "p.csv", "--json", "a.json"]) == 0
    assert "written: p.csv" in capsys.readouterr().out
    assert main(["evaluate", "p.csv", "--truth", "faces.csv", "--json", "b.json"]) == 0
    first = json.loads((tmp_path / "a.json").read_text())["sets"]["test"]["shipped"]
    second = json.loads((tmp_path / "b.json").read_text())["metrics"]
    assert first["map"]["value"] == second["map"]["value"] == 1.0
    assert first["f1"]["value"] == second["f1"]["value"]


def test_faces_of_another_size_and_data_without_faces_are_refused(clips, tmp_path, capsys):
    step_graph(tmp_path / "model.onnx")
    recipe = (tmp_path / "clips.yaml").read_text()
    write(tmp_path / "large.yaml", [recipe.replace("size: 16", "size: 32")])
    assert main(["evaluate", "model.onnx", "--data", "large.yaml"]) == 2
    assert "the data's faces have 32 pixels, the model takes 16" in capsys.readouterr().err
    assert main(["evaluate", "model.onnx", "--data", "speech_commands"]) == 2
    assert "active speakers need tracks of faces, not" in capsys.readouterr().err
    assert main(["evaluate", "model.onnx", "--data", "clips.yaml", "--split", "val"]) == 2
    assert "--split val: the data has no track there" in capsys.readouterr().err
