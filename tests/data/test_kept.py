import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_streams import scenery
from data.test_wake_clips import rows
from data.test_word_clips import clips
from lightsleeper.data import kept
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.kept import KeptClips, KeptStream, KeptUtterances
from lightsleeper.data.streams import Scenery
from lightsleeper.data.word_clips import UtteranceClips
from lightsleeper.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    return tmp_path


def test_a_kept_stream_is_the_rendered_one_to_the_last_bit(monkeypatch: pytest.MonkeyPatch):
    rendered = scenery(3)
    stream = KeptStream(scenery(3), "origin")
    assert stream.events == rendered.events
    assert np.array_equal(stream.read(0, stream.samples), rendered.read(0, rendered.samples))
    assert np.array_equal(stream.read(70_001, 4_321), rendered.read(70_001, 4_321))


def test_a_stream_is_rendered_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = KeptStream(scenery(3), "origin").read(0, 1000)
    assert len(list((cache / "streams").glob("*.i16"))) == 1
    monkeypatch.setattr(Scenery, "read", lambda *_: pytest.fail("rendered again"))
    assert np.array_equal(KeptStream(scenery(3), "origin").read(0, 1000), first)


def test_half_a_file_is_rendered_again(cache: Path):
    stream = KeptStream(scenery(3), "origin")
    whole = stream.read(0, stream.samples)
    file = next((cache / "streams").glob("*.i16"))
    file.write_bytes(file.read_bytes()[:1000])
    assert np.array_equal(KeptStream(scenery(3), "origin").read(0, stream.samples), whole)


def test_another_plan_or_other_clips_are_another_stream():
    keys = {KeptStream(scenery(seed), origin).key for seed in (3, 4) for origin in ("a", "b")}
    keys.add(KeptStream(scenery(3, snr_db=(0.0, 1.0)), "a").key)
    assert len(keys) == 5


def test_kept_clips_are_those_of_the_first_epochs_in_turn():
    fresh, epoch = rows(20)
    own, turn = rows(20)
    clips = KeptClips(own, 2, "origin")
    for number in (0, 1, 2, 3):
        turn.set(number)
        epoch.set(number % 2)
        for index in (0, 7, 19):
            found, made = clips[index], fresh[index]
            assert found.keys() == made.keys()
            assert torch.allclose(found["audio"], made["audio"], atol=1 / 32768)
            for name in ("begin_s", "end_s", "phones"):
                assert found[name].dtype == made[name].dtype
                assert torch.equal(found[name].nan_to_num(-1), made[name].nan_to_num(-1))
            assert (found["keyword"], found["clip"]) == (made["keyword"], made["clip"])


def test_clips_are_made_once_and_depend_on_the_seed(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = KeptClips(rows(5)[0], 1, "origin")[3]["audio"]
    KeptClips(rows(5, seed=4)[0], 1, "origin")[3]
    assert len(list((cache / "wake_clips").glob("*.bin"))) == 2
    again = KeptClips(rows(5)[0], 1, "origin")
    monkeypatch.setattr(type(again.rows), "__getitem__", lambda *_: pytest.fail("made again"))
    assert torch.equal(again[3]["audio"], first)


def test_workers_open_their_own_file():
    clips = KeptClips(rows(5)[0], 1, "origin")
    assert torch.equal(pickle.loads(pickle.dumps(clips))[2]["audio"], clips[2]["audio"])
    stream = KeptStream(scenery(3), "origin")
    head = stream.read(0, 100)
    assert np.array_equal(pickle.loads(pickle.dumps(stream)).read(0, 100), head)


def test_who_comes_second_waits_for_who_makes_it(cache: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    render = KeptStream._render
    monkeypatch.setattr(KeptStream, "_render", lambda self, path: (made.append(path), render(self, path)))
    threads = [threading.Thread(target=KeptStream(scenery(3), "origin").read, args=(0, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_full_disk_is_named_before_anything_is_written(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "free_bytes", lambda _: 10**9)
    with pytest.raises(UserError, match="keep_streams: none"):
        KeptStream(scenery(3), "origin").read(0, 10)
    with pytest.raises(UserError, match="keep_clips: 0"):
        KeptClips(rows(5)[0], 1, "origin")[0]


def test_kept_utterances_are_those_of_the_first_epochs_in_turn():
    epoch, turn = SharedEpoch(), SharedEpoch()
    fresh, utterances = clips(epoch, joined=(1, 3)), KeptUtterances(clips(turn, joined=(1, 3)), 2, "origin")
    assert len(utterances) == len(fresh)
    for number in (0, 1, 2, 3):
        turn.set(number)
        epoch.set(number % 2)
        for index in (0, 8, 13):
            found, made = utterances[index], fresh[index]
            assert found.keys() == made.keys()
            assert found["clip"] == made["clip"]
            for name in ("word", "begin_s", "end_s"):
                assert torch.equal(found[name], made[name])
                assert found[name].dtype is made[name].dtype
            assert torch.allclose(found["audio"], made["audio"], atol=1 / 65536 + 1e-7)


def test_utterances_are_made_once_and_by_their_origin(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = KeptUtterances(clips(), 1, "origin")[3]["audio"]
    monkeypatch.setattr(UtteranceClips, "__getitem__", lambda *_: pytest.fail("made again"))
    assert torch.equal(KeptUtterances(clips(), 1, "origin")[3]["audio"], first)
    assert torch.equal(pickle.loads(pickle.dumps(KeptUtterances(clips(), 1, "origin")))[3]["audio"], first)
    keys = {KeptUtterances(clips(**mix), 1, origin).key for mix in ({}, {"joined": (1, 2)}) for origin in "ab"}
    assert len(keys) == 4


def test_samples_without_their_index_are_made_again(cache: Path):
    utterances = KeptUtterances(clips(), 1, "origin")
    whole = utterances[3]["audio"]
    next((cache / "word_clips").glob("*.npz")).unlink()
    next((cache / "word_clips").glob("*.i16")).write_bytes(b"")
    assert torch.equal(KeptUtterances(clips(), 1, "origin")[3]["audio"], whole)


def test_a_full_disk_is_named_before_utterances_are_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "free_bytes", lambda _: 1 << 29)
    with pytest.raises(UserError, match="are needed to keep rendered audio"):
        KeptUtterances(clips(), 1, "origin")[0]
