import sys

import numpy as np
import pytest

pytest.importorskip("av")
from data.talking_video import HEADER, SPEECH_S, face_rows, write_video
from lightsleeper.data import video
from lightsleeper.data.ava_csv import read_rows
from lightsleeper.data.clip_tracks import grid, runs_of
from lightsleeper.data.speaker_clips import SpeakerClips
from lightsleeper.errors import UserError


def write_rows(folder, rows):
    (folder / "faces.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder / "faces.csv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a", "b", "c"):
        write_video(clips, name)
    write_rows(clips, [row for name in ("a", "b", "c") for row in face_rows(name)])
    return clips


def module(folder, **changes):
    found = SpeakerClips(folder, **{"size": 32, "seed": 0, **changes})
    found.setup("fit")
    return found


def test_pictures_and_sound_of_a_video_are_in_step(tmp_path):
    path = write_video(tmp_path)
    times, pictures = zip(*video.pictures(path), strict=True)
    np.testing.assert_allclose(times, np.arange(40) / 25, atol=1e-3)
    bright = [time for time, picture in zip(times, pictures, strict=True) if picture[48, 40] > 150]
    loud = np.flatnonzero(np.abs(video.sound(path)) > 0.1) / 16_000
    assert abs(bright[0] - SPEECH_S[0]) < 0.01
    assert abs(loud[0] - SPEECH_S[0]) < 0.01
    assert abs(loud[-1] - SPEECH_S[1]) < 0.01


@pytest.mark.parametrize("fps", [10.0, 30.0])
def test_any_frame_rate_comes_to_twenty_five(tmp_path, fps):
    pictures = list(grid(write_video(tmp_path, fps=fps)))
    assert abs(len(pictures) - 40) <= 2
    bright = [frame / 25 for frame, picture in enumerate(pictures) if picture[48, 40] > 150]
    assert abs(bright[0] - SPEECH_S[0]) <= 0.05
    assert abs(bright[-1] - SPEECH_S[1]) <= 0.1


def test_tracks_have_crops_labels_and_the_sound_beside_them(folder):
    track = {t.entity: t for t in map(module(folder).parts["test"].track, range(2))}
    left, right = track["left"], track["right"]
    assert left.faces.shape == (40, 32, 32)
    assert right.faces.shape == (30, 32, 32)
    speaks = left.label3 == 1
    assert speaks.sum() == 20
    assert left.faces[speaks][:, 16, 16].min() > 190
    assert left.faces[~speaks][:, 16, 16].max() < 110
    level = np.abs(left.audio[: 40 * 640].reshape(40, 640)).max(1)
    np.testing.assert_array_equal(level[2:-2] > 0.1, speaks[2:-2])
    assert right.timestamps[0] == pytest.approx(0.4)
    assert np.abs(right.audio[:640]).max() > 0.1  # its sound begins where it does
    assert left.face_px.tolist() == [48.0] * 40
    assert left.speakers.tolist() == [1] * 10 + [2] * 30


def test_boxes_of_fewer_frames_move_evenly_and_a_gap_makes_two_tracks(tmp_path):
    rows = [f"v,{time},{x},0,{x + 0.2},1,NOT_SPEAKING,f" for time, x in ((0, 0.0), (0.4, 0.4), (2.0, 0.5), (2.2, 0.5))]
    first, second = runs_of(read_rows(write_rows(tmp_path, rows)), "v")
    assert (first.name, first.first, first.last) == ("f 1", 0, 10)
    assert (second.name, second.first, second.last) == ("f 2", 50, 55)
    np.testing.assert_allclose(first.box(5), [0.2, 0, 0.4, 1])


def test_parts_are_of_different_videos(folder):
    data = module(folder)
    assert sorted(data.members_of["train"] + data.members_of["val"] + data.members_of["test"]) == ["a", "b", "c"]
    assert module(folder, test_videos=["b"]).members_of["test"] == ["b"]
    assert module(folder, evaluate_only=True).members_of == {"train": [], "val": [], "test": ["a", "b", "c"]}
    assert data.summary()["overlap"]["train/test"] == {"videos": 0}


def test_videos_are_decoded_once(folder, monkeypatch):
    hashed = module(folder).summary()["hash"]
    monkeypatch.setattr(video, "pictures", None)
    assert module(folder).summary()["hash"] == hashed


def test_training_batches_come_of_clips(folder):
    batch = next(iter(module(folder).train_dataloader()))
    assert batch["faces"].shape == (2, 30, 32, 32)
    assert batch["mfcc"].shape == (2, 120, 13)


def test_what_is_missing_or_damaged_is_refused_by_name(folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        SpeakerClips(tmp_path / "none").check()
    with pytest.raises(UserError, match="test_videos: 'd' does not occur"):
        SpeakerClips(folder, test_videos=["d"]).check()
    (folder / "b.mp4").write_bytes((folder / "b.mp4").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"b\.mp4 is damaged or no video"):
        module(folder)
    (folder / "b.mp4").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 3 videos in faces.csv: b\."):
        SpeakerClips(folder).check()


def test_two_videos_leave_no_part_for_training(folder):
    write_rows(folder, [row for name in ("a", "b") for row in face_rows(name)])
    with pytest.raises(UserError, match="leave none for 'train'"):
        module(folder)


def test_without_the_package_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[video\]'"):
        SpeakerClips(folder).check()


def test_a_file_without_sound_or_pictures_is_refused(tmp_path):
    video.write(tmp_path / "mute.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, 25)
    with pytest.raises(UserError, match="holds no sound"):
        video.sound(tmp_path / "mute.mp4")
    with pytest.raises(UserError, match="does not exist"):
        list(video.pictures(tmp_path / "none.mp4"))
