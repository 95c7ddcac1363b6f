import pickle
import re

import numpy as np
import pytest
from lightsleeper.data import speaker_build
from lightsleeper.data.speaker_corpus import SpeakerCorpus
from lightsleeper.data.speaker_scenes import write_scenes
from lightsleeper.data.synthetic_speakers import SyntheticSpeakers
from lightsleeper.errors import UserError
from lightsleeper.metrics.active_speaker import NOT_AUDIBLE, SITUATIONS, SPEAKING

TINY = {
    "size": 24, "train_scenes": 10, "val_scenes": 3, "test_scenes": 4, "sentences": 40, "identities": 12,
    "build_workers": 1, "batch_frames": 400, "seed": 5,
}  # fmt: skip
VOICES = {name: list(range(10 * i, 10 * i + 10)) for i, name in enumerate("abcdef")}


@pytest.fixture(scope="module")
def data(corpus_cache):
    found = SyntheticSpeakers(**TINY)
    found.setup("fit")
    return found


def scenes(count=3000, seed=0):
    return write_scenes("train", count, VOICES, np.full(60, 1.8), range(40), np.random.default_rng(seed))


def test_faces_mouth_silently_about_as_often_as_they_speak():
    situations = [role.situation for scene in scenes() for role in scene.roles]
    speaking, mouthing = situations.count("speaking"), situations.count("mouthing")
    assert 0.7 < mouthing / speaking < 1.3
    assert set(situations) == set(SITUATIONS)


def test_a_sound_does_not_tell_which_face_it_belongs_to():
    heard = [(scene, turn) for scene in scenes() for turn in scene.turns]
    faces = sum(len(scene.roles) for scene, _ in heard)
    speaking = sum(turn.face >= 0 for _, turn in heard)
    assert 0.25 < speaking / faces < 0.5  # of the faces that are there while a voice is heard


def test_mouthing_starts_like_speech_and_is_of_another_sentence():
    speech, silent = [], []
    for scene in scenes():
        clips = {turn.clip for turn in scene.turns}
        for face, role in enumerate(scene.roles):
            if role.mouthed >= 0:
                assert role.mouthed not in clips
                silent.append(role.mouthed_start_s)
            own = [turn.start_s for turn in scene.turns if turn.face == face]
            if own and scene.turns[0].face == face:
                speech.append(own[0])
    assert abs(np.mean(speech) - np.mean(silent)) < 0.03
    assert scenes(5) == scenes(5)


def test_nobody_is_in_two_parts(data):
    overlap = data.summary()["overlap"]
    assert overlap == {pair: {"faces": 0, "voices": 0, "sentences": 0} for pair in overlap}
    assert len(overlap) == 3


def test_labels_are_those_of_what_is_said(data):
    corpus = data.corpus
    for number, situation in enumerate(corpus.columns["situation"]):
        labels = set(corpus.labels(number).tolist())
        expected = {"speaking": {0, SPEAKING}, "mouthing": {0, NOT_AUDIBLE}}.get(situation, {0})
        assert labels == expected


def test_sound_is_heard_where_a_visible_face_speaks(data):
    ratios = []
    for number, situation in enumerate(data.corpus.columns["situation"]):
        track = data.corpus.track(number)
        if situation == "speaking":
            level = np.sqrt((track.audio.reshape(len(track.label3), 640) ** 2).mean(1))
            ratios.append(level[track.label3 == SPEAKING].mean() / level.mean())
    assert np.mean(ratios) > 1.05


def test_every_face_of_a_scene_hears_the_same(data):
    corpus = data.corpus
    tracks = [corpus.track(number) for number in range(len(corpus))]
    for first, second in zip(tracks, tracks[1:], strict=False):
        if first.video == second.video:
            np.testing.assert_array_equal(first.audio, second.audio)
            assert len(first.faces) == len(second.faces)


def test_batches_are_those_of_the_contract(data):
    batch = next(iter(data.train_dataloader()))
    tracks, frames = batch["label"].shape
    assert batch["faces"].shape == (tracks, frames, 24, 24)
    assert batch["mfcc"].shape == (tracks, 4 * frames, 13)
    assert tracks * frames <= 400 or tracks == 1
    judged = list(data.test_dataloader())
    assert len(judged) == len(data.parts["test"].frames)
    assert judged[0]["situation"] in SITUATIONS
    assert judged[0]["speakers"].unique().numel() == 1


def test_a_second_module_finds_the_scenes_and_a_worker_opens_its_own(data):
    again = SyntheticSpeakers(**{**TINY, "seed": 6})
    again.setup("test")
    assert again.corpus.sha256 == data.corpus.sha256
    copy = pickle.loads(pickle.dumps(data.corpus))
    np.testing.assert_array_equal(copy.track(1).faces, data.corpus.track(1).faces)


def test_the_same_script_draws_the_same_bytes(data, tmp_path):
    name = data.corpus.manifest["shards"][1]  # of the validation part
    scripts = [scene for scene in data._script(data.speech) if scene.part == "val"]
    job = speaker_build.SceneJob(1, scripts, data.speech.folder, 24, 0, data.snr_db)
    speaker_build.make_shard(tmp_path, job)
    assert (tmp_path / job.file).read_bytes() == (data.corpus.folder / name).read_bytes()


def test_a_damaged_shard_is_named_with_the_way_out(data, tmp_path):
    for file in data.corpus.folder.glob("*.arrow"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000])
    (tmp_path / "corpus.json").write_text((data.corpus.folder / "corpus.json").read_text())
    with pytest.raises(UserError, match="Delete that folder"):
        SpeakerCorpus(tmp_path, 24)


def test_a_disk_without_room_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    monkeypatch.setattr(speaker_build, "free_bytes", lambda folder: 10**6)
    with pytest.raises(UserError, match=re.escape("drawn faces need about")):
        SyntheticSpeakers(**TINY).check()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"size": 8}, "size must be at least 16, got 8"), ({"snr_db": (9, 3)}, "snr_db must be"),
     ({"train_scenes": 0}, "train_scenes must be"), ({"held_out_voices": 88}, "leave none")],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        SyntheticSpeakers(**changes)
