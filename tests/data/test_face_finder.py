import numpy as np
import pytest

pytest.importorskip("av")
from data.talking_video import write_video
from lightsleeper.data.clip_tracks import runs_of
from lightsleeper.data.face_finder import find_faces, overlap, require_finder
from lightsleeper.errors import UserError


def scripted(pictures):
    """A finder that sees these boxes, picture after picture."""
    queue = iter(pictures)
    return lambda picture: np.array(next(queue), float).reshape(-1, 4)


def box(x, y=0.2):
    return [x, y, x + 0.2, y + 0.3]


def test_boxes_that_overlap_are_one_face_and_rare_ones_none(tmp_path):
    seen = [
        [box(0.1), box(0.6)], [box(0.62), box(0.12)], [box(0.14)], [box(0.64), box(0.16)], [box(0.66), box(0.3, 0.6)],
        [box(0.18), box(0.68)], [box(0.2), box(0.7)], [box(0.22)],
    ]  # fmt: skip
    rows = find_faces(write_video(tmp_path), scripted(seen))
    runs = runs_of(rows, "talk")
    assert [run.name for run in runs] == ["face 1", "face 2"]
    np.testing.assert_allclose(runs[0].box(15)[0], 0.16)
    np.testing.assert_allclose(runs[0].box(20)[0], 0.17)  # between two that were found
    assert (runs[1].first, runs[1].last) == (0, 30)


def test_a_video_without_a_face_is_refused(tmp_path):
    with pytest.raises(UserError, match="no face was found"):
        find_faces(write_video(tmp_path), scripted([[]] * 8))


def test_overlap_is_intersection_over_union():
    a = np.array([0, 0, 2, 2.0])
    assert overlap(a, a) == 1
    assert overlap(a, np.array([1, 0, 3, 2.0])) == pytest.approx(1 / 3)
    assert overlap(a, np.array([2, 2, 3, 3.0])) == 0


def test_the_detector_finds_a_portrait():
    data = pytest.importorskip("skimage.data")
    grey = (data.astronaut() @ [0.299, 0.587, 0.114]).astype(np.uint8)  # 512 x 512, the face about (170, 70)-(270, 170)
    found = require_finder()(grey)
    assert max(overlap(one, np.array([170, 70, 270, 170]) / 512) for one in found) > 0.6
