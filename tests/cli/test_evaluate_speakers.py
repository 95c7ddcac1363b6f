import json

import pytest
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
