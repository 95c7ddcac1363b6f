import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lightsleeper.data import corpus_build, shards
from lightsleeper.data.augment import draw_scene
from lightsleeper.data.corpus import Corpus, check_buildable, corpus_key, open_or_build
from lightsleeper.data.corpus_build import Line
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.data.synthesis import Utterance
from lightsleeper.errors import UserError


def script(clips: int = 9) -> list[Line]:
    texts = ["on the road", "seven", "blue water", "a cat"]
    voices = ["Alex", "f4", "croak", "klatt2", "whisper"]
    half = clips // 2
    return [
        Line("train" if i < half else "test", texts[i % 4], voices[i % 5], "en-us", 120 + 10 * (i % 8), 50, 100 + i)
        for i in range(clips)
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    monkeypatch.setattr(corpus_build, "SHARD_CLIPS", 2)
    return tmp_path


def built(workers: int = 1, spec: int = 0, lines: list[Line] | None = None) -> Corpus:
    return open_or_build({"spec": spec}, lambda: lines or script(), workers, progress=False)


def test_one_and_two_workers_make_the_same_bytes(cache: Path) -> None:
    one, two = built(1, spec=1), built(2, spec=2)
    assert one.folder != two.folder
    assert one.sha256 == two.sha256
    assert [one.samples(i).tobytes() for i in range(9)] == [two.samples(i).tobytes() for i in range(9)]


def test_a_finished_corpus_is_opened_without_asking_for_the_script(cache: Path) -> None:
    built()

    def refuse() -> list[Line]:
        raise AssertionError("a finished corpus was scripted again")

    assert len(open_or_build({"spec": 0}, refuse)) == 9


def test_only_missing_shards_are_made_again(cache: Path) -> None:
    first = built()
    digest, folder = first.sha256, first.folder
    (folder / "corpus.json").unlink()
    lost, *kept = sorted(folder.glob("[!.]*.arrow"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    lost.unlink()
    (folder / ".half-a-shard.tmp.arrow").write_bytes(b"x")
    assert built().sha256 == digest
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert not list(folder.glob(".*.tmp*"))


def test_a_killed_build_goes_on_to_the_same_corpus(cache: Path) -> None:
    lines = script(80)
    program = textwrap.dedent(
        """
        import pickle, sys
        from lightsleeper.data import corpus_build
        from lightsleeper.data.corpus import open_or_build
        if __name__ == "__main__":
            corpus_build.SHARD_CLIPS = 2
            lines = pickle.loads(bytes.fromhex(sys.argv[1]))
            open_or_build({"spec": 7}, lambda: lines, 1, progress=False)
        """
    )
    path = cache / "build.py"
    path.write_text(program)
    child = subprocess.Popen([sys.executable, str(path), pickle.dumps(lines).hex()])
    folder = cache / "corpora" / corpus_key({"spec": 7})
    deadline = time.monotonic() + 60
    while len(list(folder.glob("[!.]*.arrow"))) < 2 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.3)  # its worker notices and leaves
    assert not (folder / "corpus.json").exists()
    survivors = {p.name: p.stat().st_mtime_ns for p in folder.glob("[!.]*.arrow")}
    assert survivors
    resumed = built(spec=7, lines=lines)
    assert {name: (folder / name).stat().st_mtime_ns for name in survivors} == survivors
    assert resumed.sha256 == built(spec=8, lines=lines).sha256


def test_two_processes_that_want_the_same_corpus_build_it_once(cache: Path) -> None:
    calls = []

    def count() -> list[Line]:
        calls.append(1)
        return script()

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: open_or_build({"spec": 3}, count, 1, progress=False), range(2)))
    assert len(calls) == 1
    assert both[0].sha256 == both[1].sha256


def test_a_dead_worker_is_reported_and_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_start_worker", os.abort)
    with pytest.raises(UserError, match="worker process died"):
        built(2)


def test_a_mistake_inside_a_worker_reaches_the_user(cache: Path) -> None:
    wrong = [Line("train", "cat", "nobody", "en-us", 160, 50, 1)]
    with pytest.raises(UserError, match="no voice 'en-us.nobody'"):
        built(lines=wrong)


def test_too_little_disk_is_refused_before_the_start(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="LIGHTSLEEPER_CACHE"):
        built()


def buildable(clips: int) -> None:
    check_buildable(lambda: {"spec": 0}, clips)


def test_without_an_engine_only_a_finished_corpus_is_accepted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buildable(10)
    assert not list(cache.iterdir())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="espeak-ng"):
        buildable(10)
    folder = cache / "corpora" / corpus_key({"spec": 0})
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="espeak-ng"):
        buildable(10)
    (folder / "corpus.json").touch()
    buildable(10)


def test_a_corpus_that_is_half_there_needs_room_for_its_rest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache)
    free = 600 * corpus_build.BYTES_PER_CLIP
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(UserError, match="LIGHTSLEEPER_CACHE"):
        buildable(1000)
    folder = cache / "corpora" / corpus_key({"spec": 0})
    folder.mkdir(parents=True)
    (folder / "train-00000.arrow").touch()  # 500 clips
    buildable(1000)


def test_a_damaged_shard_is_named_with_the_way_out(cache: Path) -> None:
    corpus = built()
    next(corpus.folder.glob("train*.arrow")).write_bytes(b"not arrow")
    with pytest.raises(UserError, match="Delete that folder"):
        Corpus(corpus.folder)


def test_the_key_follows_the_spec_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    key = corpus_key({"a": 1, "b": 2})
    assert key == corpus_key({"b": 2, "a": 1})
    assert key != corpus_key({"a": 1, "b": 3})
    monkeypatch.setattr("lightsleeper.data.corpus.VERSION", 0)
    assert key != corpus_key({"a": 1, "b": 2})


def test_audio_is_a_read_only_view_of_the_file(spoken: SpokenPhrases) -> None:
    samples = spoken.corpus.samples(3)
    assert samples.dtype == np.int16
    assert not samples.flags.owndata
    assert not samples.flags.writeable
    audio = spoken.corpus.audio(3)
    assert audio.dtype == np.float32
    assert np.array_equal(audio, samples.astype(np.float32) / 32768)
    assert spoken.corpus.seconds(3) == pytest.approx(len(samples) / 16_000)


def test_rows_say_how_a_clip_was_made(spoken: SpokenPhrases) -> None:
    corpus = spoken.corpus
    for clip in range(0, len(corpus), 7):
        row = corpus.row(clip)
        words = row["text"].split()
        assert row["clip"] == clip
        assert row["text"] == corpus.texts[clip]
        assert len(row["word_starts_s"]) == len(row["word_ends_s"]) == len(words)
        edges = [t for pair in zip(row["word_starts_s"], row["word_ends_s"], strict=True) for t in pair]
        assert edges == sorted(edges)
        assert 0 <= edges[0] < edges[-1] <= row["seconds"] + 1e-3
        assert row["phone_labels"]
        assert (row["noise"] == "none") == np.isinf(row["snr_db"])


def test_word_times_follow_speed_and_silence() -> None:
    scene = replace(draw_scene(0), speed=1.1, lead_s=0.125)
    said = Utterance(np.zeros(9, np.int16), 22_050, [0.2, 0.4], [0.4, 0.7], ["a", "b"], [0.2, 0.4])
    row = corpus_build._row(script()[0], scene, said, np.zeros(9, np.int16))
    assert row["word_starts_s"] == row["phone_starts_s"] == pytest.approx([0.125 + 0.2 / 1.1, 0.125 + 0.4 / 1.1])
    assert row["word_ends_s"] == pytest.approx([0.125 + 0.4 / 1.1, 0.125 + 0.7 / 1.1])


def test_words_lie_where_the_sound_is(spoken: SpokenPhrases) -> None:
    corpus = spoken.corpus
    quiet = [r for r in map(corpus.row, range(len(corpus))) if r["noise"] == "none" and not r["room_t60_s"]]
    assert quiet
    for row in quiet:
        energy = corpus.audio(row["clip"]) ** 2
        times = np.arange(len(energy)) / 16_000
        said = (times >= row["word_starts_s"][0] - 0.03) & (times < row["word_ends_s"][-1] + 0.03)
        assert energy[said].sum() > 0.95 * energy.sum()


def test_a_pickled_corpus_is_small_and_opens_its_own_files(spoken: SpokenPhrases) -> None:
    data = pickle.dumps(spoken.corpus)
    assert len(data) < 20_000
    assert np.array_equal(pickle.loads(data).samples(5), spoken.corpus.samples(5))


def test_hugging_face_datasets_read_the_same_files(spoken: SpokenPhrases) -> None:
    rows = spoken.corpus.dataset("val")
    clips = spoken.corpus.clips("val")
    assert rows["text"][:] == [spoken.corpus.texts[clip] for clip in clips]
    assert rows[0]["audio"] == spoken.corpus.samples(int(clips[0])).tobytes()


def test_the_manifest_holds_what_identifies_the_corpus(spoken: SpokenPhrases) -> None:
    manifest = json.loads((spoken.corpus.folder / "corpus.json").read_text())
    assert manifest["key"] == spoken.corpus.folder.name == corpus_key(manifest["spec"])


def test_workers_do_not_pay_for_torch() -> None:
    code = "import sys, lightsleeper.data.corpus_build; sys.exit(bool({'torch', 'espeakng_loader'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
