import numpy as np
import pytest
import soundfile
import torch
from lightsleeper.data.ava_active_speaker import AVAActiveSpeaker, frame_rate, read_crop, resized
from lightsleeper.errors import UserError
from PIL import Image

LABELS = ["NOT_SPEAKING", "SPEAKING_AUDIBLE", "SPEAKING_NOT_AUDIBLE"]


def prepare(folder, part, videos, frames=6, fps=25.0, colon=":"):
    """Two entities in each video, as TalkNet's script leaves them."""
    rows = ["video_id,frame_timestamp,entity_box_x1,entity_box_y1,entity_box_x2,entity_box_y2,label,entity_id,label_id"]
    for video in videos:
        for number in range(2):
            entity = f"{video}_0900_0930:{number}"
            name = entity.replace(":", colon)
            crops = folder / "clips_videos" / part / video / name
            crops.mkdir(parents=True)
            sounds = folder / "clips_audios" / part / video
            sounds.mkdir(parents=True, exist_ok=True)
            for frame in range(frames):
                time = 900 + frame / fps
                rows.append(f"{video},{time:.2f},0.1,0.1,0.5,0.6,{LABELS[frame % 3]},{entity},0")
                picture = np.full((70, 40 + 60 * number, 3), 8 * frame, np.uint8)
                Image.fromarray(picture).save(crops / f"{time:.2f}.jpg", quality=95)
            noise = np.random.default_rng(number).standard_normal(int(frames / fps * 16_000)) * 0.1
            soundfile.write(sounds / f"{name}.wav", noise, 16_000, subtype="PCM_16")
    (folder / "csv").mkdir(exist_ok=True)
    (folder / "csv" / f"{part}_orig.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def folder(tmp_path):
    prepare(tmp_path, "train", ["film1", "film2", "film3"])
    prepare(tmp_path, "val", ["show1"])
    return tmp_path


def module(folder, **changes):
    found = AVAActiveSpeaker(folder, **{"validation_videos": 1, "workers": 0, "size": 24, "seed": 0, **changes})
    found.setup("fit")
    return found


def test_tracks_are_crops_sound_and_labels_by_time(folder):
    judged = list(module(folder).test_dataloader())
    assert [batch["entity"] for batch in judged] == ["show1_0900_0930:0", "show1_0900_0930:1"]
    batch = judged[1]
    assert batch["faces"].shape == (1, 6, 24, 24)
    assert np.abs(batch["faces"][0, :, 12, 12].numpy() - 8.0 * np.arange(6)).max() <= 2
    assert batch["mfcc"].shape == (1, 24, 13)
    assert batch["label3"].tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch["label"].tolist() == [[0, 1, 0, 0, 1, 0]]
    assert batch["speakers"].tolist() == [[2] * 6]
    assert batch["face_px"].tolist() == [[100.0] * 6]
    assert batch["timestamps"][0, 1] == 900.04


def test_the_validation_videos_of_ava_are_the_test_and_others_validate(folder):
    data = module(folder)
    members = {part: data.members(part)["videos"] for part in ("train", "val", "test")}
    assert members["test"] == {"show1"}
    assert members["train"] | members["val"] == {"film1", "film2", "film3"}
    assert len(members["val"]) == 1
    assert data.summary()["overlap"]["train/val"] == {"videos": 0, "entities": 0}
    published = module(folder, validation_videos=0)
    assert published.members("val") == published.members("test")
    assert published.summary()["hash"] != data.summary()["hash"]


def test_training_batches_hold_all_tracks(folder):
    (batch,) = module(folder, batch_frames=100).train_dataloader()
    assert batch["faces"].shape == (4, 6, 24, 24)
    assert len(module(folder, batch_frames=100, max_tracks=1).train_dataloader()) == 1


def test_a_colon_may_be_an_underscore_on_disk(tmp_path):
    prepare(tmp_path, "train", ["film1", "film2"], colon="_")
    prepare(tmp_path, "val", ["show1"], colon="_")
    assert len(module(tmp_path).parts["train"].frames) == 2


def test_windows_of_sound_follow_the_frame_rate(tmp_path):
    prepare(tmp_path, "train", ["film1", "film2"])
    prepare(tmp_path, "val", ["show1"], frames=30, fps=30)
    track = module(tmp_path).parts["test"].track(0)
    assert track.fps == pytest.approx(30, abs=0.3)  # times have two decimals
    assert next(iter(module(tmp_path).test_dataloader()))["mfcc"].shape == (1, 120, 13)
    assert frame_rate(np.array([900.0])) == 25


def test_a_face_of_one_frame_is_a_track(tmp_path):
    prepare(tmp_path, "train", ["film1", "film2"])
    prepare(tmp_path, "val", ["show1"], frames=1)
    assert next(iter(module(tmp_path).test_dataloader()))["mfcc"].shape == (1, 4, 13)


def test_crops_are_resized_as_opencv_does():
    picture = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    y, x = ((np.arange(4) + 0.5) * n / 4 - 0.5 for n in (7, 9))
    expected = np.zeros((4, 4))
    for i, v in enumerate(y):
        for j, u in enumerate(x):
            top, left = int(v), int(u)
            a, b = v - top, u - left
            around = picture[top : top + 2, left : left + 2].astype(float)
            expected[i, j] = np.array([1 - a, a]) @ around @ np.array([1 - b, b])
    np.testing.assert_allclose(resized(picture, 4), expected, atol=0.51)


def test_tracks_without_files_are_refused_by_name_or_left_out(folder):
    (folder / "clips_audios" / "train" / "film2" / "film2_0900_0930:1.wav").unlink()
    with pytest.raises(UserError, match=r"1 of 6 tracks of 'train' lack crops or sound in .*: film2_0900_0930:1"):
        module(folder)
    data = module(folder, on_bad_file="skip")
    assert data.summary()["skipped"] == ["film2_0900_0930:1"]
    assert sum(len(data.parts[part].frames) for part in ("train", "val")) == 5


def test_missing_and_damaged_crops_are_named(folder):
    crops = folder / "clips_videos" / "val" / "show1" / "show1_0900_0930:0"
    (crops / "900.08.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 6 crops are missing \(first: 900.08.jpg\)"):
        module(folder).parts["test"].track(0)
    (crops / "900.08.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"900.08.jpg cannot be read"):
        module(folder).parts["test"].track(0)


def test_folders_that_are_not_there_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        AVAActiveSpeaker(tmp_path / "none").check()
    with pytest.raises(UserError, match="there are 3 training videos"):
        module(folder, validation_videos=3)
    (folder / "csv" / "val_orig.csv").unlink()
    with pytest.raises(UserError, match=r"no labels of 'val': expected csv/val_orig.csv"):
        AVAActiveSpeaker(folder).check()


def test_grey_is_that_of_the_eye(tmp_path):
    Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).save(tmp_path / "a.png")
    grey, px = read_crop(tmp_path / "a.png", 4)
    assert px == 8
    assert torch.from_numpy(grey).float().mean().item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)
