"""Test speech by another engine: voices, choice of texts, whose folder it may write to, finished and half-made ones."""

import shutil
from pathlib import Path

import fake_flite
import numpy as np
import pytest
import soundfile
from lightsleeper.data import flite
from lightsleeper.data.audio_folder import AudioFolder
from lightsleeper.data.manifest import read_manifest
from lightsleeper.errors import UserError

TEXTS = ["light", "don't", "turn on the light"]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_flite.install(tmp_path / "bin", monkeypatch)


def made(folder: Path, texts: list[str] = TEXTS) -> int:
    return flite.speak(texts, folder, flite.find_flite(), progress=False)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_voices_are_general_ones_and_no_speaker_counts_twice(calls: Path) -> None:
    assert flite.voices(flite.find_flite()) == fake_flite.VOICES  # neither awb_time nor kal beside kal16


def test_a_voice_without_its_twin_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_flite.install(tmp_path / "bin", monkeypatch, "#!/bin/sh\necho 'Voices available: kal awb_time'\n")
    assert flite.voices(flite.find_flite()) == ["kal"]


def test_a_program_that_lists_no_voice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_flite.install(tmp_path / "bin", monkeypatch, "#!/bin/sh\necho 'what?'\n")
    with pytest.raises(UserError, match=r"lists no voice .* 'what\?'"):
        flite.voices(flite.find_flite())


def test_without_flite_the_user_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt install flite"):
        flite.find_flite()


def test_texts_are_chosen_in_equal_shares_of_word_counts_and_stay_in_order() -> None:
    texts = ["a", "b", "a", "c", "d", "e f", "g h", "i j", "k l m"]
    assert flite.choose_texts(texts, 5) == ["a", "b", "e f", "g h", "k l m"]
    assert flite.choose_texts(texts, 100) == ["a", "b", "c", "d", "e f", "g h", "i j", "k l m"]


def test_every_text_is_said_in_every_voice_as_an_audio_folder_reads_it(calls: Path, tmp_path: Path) -> None:
    assert made(tmp_path / "out") == 9
    recordings = read_manifest(tmp_path / "out")
    assert {(r.text, r.speaker) for r in recordings} == {(text, voice) for text in TEXTS for voice in fake_flite.VOICES}
    assert sorted(calls.read_text().splitlines()) == sorted(f"{r.speaker} says {r.text}" for r in recordings)
    for recording in recordings:
        info = soundfile.info(recording.file)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        frames = 2 * (16_000 // 8 + 100 * len(recording.text) * (2 if recording.speaker == "awb" else 1))
        assert info.frames == pytest.approx(frames, abs=2)  # awb spoke at 8 kHz
    named = {recording.file for recording in recordings} | {
        tmp_path / "out" / n for n in ("manifest.csv", flite.MARKER)
    }
    assert set(contents(tmp_path / "out")) == named


def test_samples_at_16_khz_are_those_that_the_engine_wrote(calls: Path, tmp_path: Path) -> None:
    made(tmp_path / "out", ["light"])
    samples, _ = soundfile.read(tmp_path / "out" / "slt" / "0000_light.wav", dtype="int16")
    assert np.unique(samples).tolist() == [-8192, 8192]


def test_a_half_made_folder_is_completed_and_what_it_holds_is_kept(calls: Path, tmp_path: Path) -> None:
    made(tmp_path / "out")
    whole = contents(tmp_path / "out")
    for name in ("manifest.csv", "slt/0001_don't.wav", "awb/0002_turn_on_the_light.wav"):
        (tmp_path / "out" / name).unlink()
    calls.unlink()
    assert made(tmp_path / "out") == 2
    assert sorted(calls.read_text().splitlines()) == ["awb says turn on the light", "slt says don't"]
    assert contents(tmp_path / "out") == whole
    assert made(tmp_path / "out") == 0


def test_a_failure_leaves_no_manifest_and_no_unfinished_file(calls: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did not say 'mute' as \w+: .* \(cannot say it\)\.$"):
        made(tmp_path / "out", ["light", "mute"])
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert list(tmp_path.glob("out/.*")) == []
    assert all(path.suffix == ".json" or soundfile.info(path).frames for path in contents(tmp_path / "out"))


def test_a_folder_with_files_of_others_is_refused_and_left_alone(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.csv").write_text("path,text\nmine.wav,mine\n")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is not an empty folder"):
        made(tmp_path / "out")
    with pytest.raises(UserError, match="is not an empty folder"):
        made(tmp_path / "out" / "manifest.csv")
    assert contents(tmp_path) == before


def test_a_folder_made_from_other_texts_is_refused_and_left_alone(calls: Path, tmp_path: Path) -> None:
    made(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="made from other texts or voices"):
        made(tmp_path / "out", TEXTS[:2])
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / flite.MARKER).write_text("{")
    with pytest.raises(UserError, match="made from other texts or voices"):
        made(tmp_path / "out")


@pytest.mark.slow
def test_the_real_flite_speaks_texts_that_make_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed (apt install flite)")
    from lightsleeper.data.lexicon import common_words

    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    texts = common_words(60)
    voices = flite.voices(flite.find_flite())
    assert len(voices) >= 2
    assert made(tmp_path / "out", texts) == len(texts) * len(voices)
    data = AudioFolder(tmp_path / "out", evaluate_only=True)
    data.prepare_data()
    data.setup("test")
    counts = data.tests["test"].counts()
    assert counts["episodes"] == 60
    assert counts["positive"] == 60 * min(3, len(voices) - 1)
    seconds = [data.clips.seconds(clip) for clip in range(len(data.clips))]
    assert 0.1 < min(seconds) <= max(seconds) < 3  # nothing empty, no voice that reads something else aloud
