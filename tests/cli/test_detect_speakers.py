import json
import sys

import numpy as np
import pytest

pytest.importorskip("av")
from data.talking_video import HEADER, SPEECH_S, face_rows, write_video
from deploy.face_graphs import clip_graph, step_graph
from lightsleeper.cli import main
from lightsleeper.data import video


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces.csv").write_text("\n".join([HEADER, *face_rows()]) + "\n")
    step_graph(tmp_path / "model.onnx")
    return str(write_video(tmp_path))


@pytest.mark.parametrize("graph", [step_graph, clip_graph])
def test_who_speaks_when_is_told_drawn_and_plotted(clip, tmp_path, capsys, graph):
    graph(tmp_path / "model.onnx")
    assert main(["detect", "model.onnx", clip, "--tracks", "faces.csv", "--out", "found"]) == 0
    out = capsys.readouterr().out
    assert "2 faces in 1.6 s (threshold 0.500)" in out
    assert "0.40-1.20  left" in out
    assert "  right" not in out
    assert (tmp_path / "found" / "talk-speakers.png").read_bytes()[:4] == b"\x89PNG"
    pictures = [picture for _, picture in video.pictures(tmp_path / "found" / "talk-speakers.mp4", "rgb24")]
    assert len(pictures) == 40
    edge = [picture[30:66, 16].astype(int).mean(0) for picture in pictures]  # left border of the left face
    greener = np.array([colour[1] - colour[0] > 40 for colour in edge])
    assert abs(greener.nonzero()[0][0] - 25 * SPEECH_S[0]) <= 1
    assert abs(greener.nonzero()[0][-1] - 25 * SPEECH_S[1]) <= 2
    assert np.abs(video.sound(tmp_path / "found" / "talk-speakers.mp4")).max() > 0.2


def test_scores_come_as_json(clip, capsys):
    assert main(["detect", "model.onnx", clip, "--tracks", "faces.csv", "--json", "--threshold", "0.3"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    left, right = found["faces"]
    assert (left["face"], len(left["scores"]), left["begin_s"]) == ("left", 40, 0.0)
    assert (right["face"], len(right["scores"]), right["begin_s"]) == ("right", 30, 0.4)
    assert left["speaks_s"] == [[0.0, 1.6]]
    assert right["speaks_s"] == []
    assert found["threshold"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["talk.mp4", "--tracks", "none.csv"], "none.csv: no such CSV file"),
        (["other.mp4", "--tracks", "faces.csv"], "has no face of 'other'; its videos: talk"),
        (["talk.mp4", "--tracks", "faces.csv", "--keyword", "x"], "--keyword is for words"),
        (["talk.mp4", "--tracks", "faces.csv", "--out", "faces.csv"], "is a file; expected a folder"),
        (["broken.mp4", "--tracks", "broken.csv"], "is damaged or no video"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(clip, tmp_path, capsys, arguments, said):
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "talk.mp4").read_bytes()[:1500])
    (tmp_path / "broken.csv").write_text("\n".join([HEADER, *face_rows("broken")]) + "\n")
    assert main(["detect", "model.onnx", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*-speakers*"))


def test_a_file_of_boxes_without_labels_will_do(clip, tmp_path, capsys):
    rows = [",".join([*row.split(",")[:6], row.split(",")[7]]) for row in (HEADER, *face_rows())]
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    assert main(["detect", "model.onnx", clip, "--tracks", "boxes.csv"]) == 0
    assert "0.40-1.20  left" in capsys.readouterr().out


def test_without_the_package_the_extra_is_named(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["detect", "model.onnx", clip, "--tracks", "faces.csv"]) == 2
    assert "pip install -e '.[video]'" in capsys.readouterr().err


def test_faces_are_searched_for_where_no_boxes_are_given(clip, monkeypatch, capsys):
    boxes = np.array([[0.1, 0.25, 0.4, 0.75], [0.6, 0.25, 0.9, 0.75]])
    monkeypatch.setattr("lightsleeper.data.face_finder.require_finder", lambda: lambda picture: boxes)
    assert main(["detect", "model.onnx", clip]) == 0
    said = capsys.readouterr()
    assert "2 faces in 1.6 s" in said.out
    assert "0.40-1.20  face 1" in said.out
    assert "faces are searched for" in said.err
    assert main(["detect", "model.onnx", clip, "--tracks", "talk-faces.csv"]) == 0  # to be corrected and given again
    assert "0.40-1.20  face 1" in capsys.readouterr().out


def test_without_a_detector_the_extra_or_boxes_are_asked_for(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert main(["detect", "model.onnx", clip]) == 2
    assert "pip install -e '.[faces]', or give --tracks FACES.csv" in capsys.readouterr().err
