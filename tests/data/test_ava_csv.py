import re

import numpy as np
import pytest
from lightsleeper.data.ava_csv import COLUMNS, read_rows, scores_of, write_predictions
from lightsleeper.errors import UserError

BOX = "0.1,0.2,0.3,0.4"
TRUTH = [
    f"film,10.00,{BOX},NOT_SPEAKING,film:1",
    f"film,10.04,{BOX},SPEAKING_AUDIBLE,film:1",
    f"film,10.04,{BOX},SPEAKING_NOT_AUDIBLE,film:2",
    f"show,10.04,{BOX},SPEAKING_AUDIBLE,show:1",
]
GOOD = [
    re.sub("(NOT_SPEAKING|SPEAKING_NOT_AUDIBLE)", "SPEAKING_AUDIBLE", row) + f",{i / 10}" for i, row in enumerate(TRUTH)
]


def write(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def truth(tmp_path):
    return read_rows(write(tmp_path / "truth.csv", TRUTH))


def judged(tmp_path, truth, rows):
    return scores_of(read_rows(write(tmp_path / "pred.csv", rows), score=True), truth)


def test_rows_are_read_in_the_official_order(truth):
    assert truth.video.tolist() == ["film", "film", "film", "show"]
    assert truth.timestamp.tolist() == [10.0, 10.04, 10.04, 10.04]
    assert truth.label.tolist() == [0, 1, 2, 1]
    assert truth.box[0].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert truth.faces_in_frame().tolist() == [1, 2, 2, 1]


def test_a_header_may_name_columns_in_any_order_and_more_of_them(tmp_path, truth):
    order = [7, 0, 1, 2, 3, 4, 5, 6]
    rows = [",".join([COLUMNS[i] for i in order] + ["label_id"])]
    rows += [",".join([row.split(",")[i] for i in order] + ["0"]) for row in TRUTH]
    found = read_rows(write(tmp_path / "talknet.csv", rows))
    assert found.entity.tolist() == truth.entity.tolist()
    assert found.label.tolist() == truth.label.tolist()
    assert found.line.tolist() == [2, 3, 4, 5]


def test_a_folder_is_all_of_its_files(tmp_path, truth):
    folder = tmp_path / "labels"
    folder.mkdir()
    write(folder / "film.csv", TRUTH[:3])
    write(folder / "show.csv", TRUTH[3:])
    assert read_rows(folder).identities() == truth.identities()


def test_scores_come_in_the_order_of_the_ground_truth(tmp_path, truth):
    assert judged(tmp_path, truth, GOOD[::-1]).tolist() == [0.0, 0.1, 0.2, 0.3]
    rewritten = [row.replace("10.00", "10.0") for row in GOOD]
    assert judged(tmp_path, truth, rewritten).tolist() == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (GOOD[1:], "lacks 1 row (line 1: film:1 of film at 10 s)"),
        ([*GOOD, GOOD[2]], "has 1 row (line 5: film:2 of film at 10.04 s) more than once"),
        ([*GOOD, GOOD[0].replace("10.00", "11.5")], "has 1 row (line 5: film:1 of film at 11.5 s) that the ground"),
        ([GOOD[0].replace("0.3", "0.31"), *GOOD[1:]], "another box for 1 row (line 1: film:1"),
        (
            [GOOD[0], GOOD[1].replace("SPEAKING_AUDIBLE", "NOT_SPEAKING"), *GOOD[2:]],
            "must say SPEAKING_AUDIBLE in every",
        ),
        ([*GOOD[:3], GOOD[3].replace("show", "film")], "lacks 1 row (line 4: show:1 of show at 10.04 s)"),
    ],
)
def test_rows_that_are_wrong_missing_or_doubled_are_named(tmp_path, truth, rows, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        judged(tmp_path, truth, rows)
    assert "\n" not in str(error.value)


def test_all_faults_are_told_in_one_error(tmp_path, truth):
    with pytest.raises(UserError) as error:
        judged(tmp_path, truth, [GOOD[0].replace("0.1,0.2", "0.1,0.3"), GOOD[1], GOOD[1]])
    for said in ("lacks 2 rows", "more than once", "another box"):
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([TRUTH[0].replace("10.00", "soon")], "line 1: frame_timestamp is 'soon', expected a number"),
        (
            [TRUTH[0], TRUTH[1].replace("SPEAKING_AUDIBLE", "SPEAKING_AUDIBEL")],
            "line 2: label 'SPEAKING_AUDIBEL' is none",
        ),
        ([TRUTH[0].rpartition(",")[0]], "expected 8 columns"),
        ([TRUTH[0], TRUTH[1].rpartition(",")[0]], "Expected 8 columns, got 7"),
        (["video_id,frame_timestamp,entity_box_x1", "a,1,2"], "no column 'entity_box_y1'"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, rows, said):
    with pytest.raises(UserError, match=re.escape(said)):
        read_rows(write(tmp_path / "faces.csv", rows))


@pytest.mark.parametrize("score", ["", "nan", "high"])
def test_a_row_without_a_score_is_refused(tmp_path, truth, score):
    with pytest.raises(UserError, match="line 2: score is"):
        judged(tmp_path, truth, [GOOD[0], GOOD[1].rpartition(",")[0] + f",{score}", *GOOD[2:]])


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such CSV file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(UserError, match="holds no CSV file"):
        read_rows(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match=r"empty\.csv"):
        read_rows(tmp_path / "empty.csv")


def test_predictions_that_are_written_are_read_again(tmp_path, truth):
    scores = np.random.default_rng(0).random(len(truth))
    write_predictions(tmp_path / "pred.csv", truth, scores)
    np.testing.assert_array_equal(scores_of(read_rows(tmp_path / "pred.csv", score=True), truth), scores)
