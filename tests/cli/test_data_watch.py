import csv
import sys

import numpy as np
import pytest
from data.drawn_tracks import DrawnTracks
from lightsleeper.cli.data_watch import watch
from lightsleeper.data.speaker_tracks import SpeakerTracks
from lightsleeper.data.track_pictures import COLOURS, framed
from lightsleeper.errors import UserError
from PIL import Image


class Drawn(SpeakerTracks):
    def collect(self):
        return {"test": DrawnTracks([12, 9, 20])}


@pytest.fixture
def data():
    found = Drawn(size=16, batch_frames=100, augment=False, workers=0, seed=0)
    found.setup("test")
    return found


def rows(folder):
    with (folder / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def test_tracks_are_written_as_a_sheet_videos_and_a_table(data, tmp_path, capsys):
    pytest.importorskip("av")
    from lightsleeper.data import video

    watch(data, 2, tmp_path)
    assert [row["entity"] for row in rows(tmp_path)] == ["face:0", "face:1"]
    assert rows(tmp_path)[1]["SPEAKING_AUDIBLE"] == "0.333"
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (14 * 22, 2 * (22 + 14))
    assert len(list(video.pictures(tmp_path / "001.mp4"))) == 9
    assert "2 videos written" in capsys.readouterr().out


def test_without_pyav_the_sheet_is_written_all_the_same(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    watch(data, 8, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.csv", "sheet.png"]
    assert len(rows(tmp_path)) == 3
    assert "no videos: video needs PyAV" in capsys.readouterr().out


def test_other_data_is_refused(tmp_path):
    with pytest.raises(UserError, match="data watch writes tracks of faces, not int"):
        watch(3, 1, tmp_path)


@pytest.mark.parametrize("label", range(3))
def test_the_border_has_the_colour_of_the_label(label):
    picture = framed(np.full((4, 4), 7, np.uint8), label, 2)
    assert picture.shape == (20, 20, 3)
    assert picture[0, 0].tolist() == list(COLOURS[label])
    assert (picture[6:14, 6:14] == 7).all()
