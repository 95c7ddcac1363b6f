import csv
from collections.abc import Callable
from pathlib import Path

import fake_flite
import pytest
import soundfile
from data.recordings import write_folder
from lightsleeper.data.spoken_phrases import SpokenPhrases

RECIPE = """\
# Tiny spoken phrases.
model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}
data:
  class_path: SpokenPhrases
  init_args:
    train_phrases: 80
    vocabulary: 500
    max_words: 2
    episodes: 4
    validation_episodes: 2
    held_out_voices: 6
"""


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose corpus lies in its own cache, built by the first test that needs it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(autouse=True)
def cache(phrases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(phrases / "cache"))
    monkeypatch.chdir(phrases)


def test_build_makes_the_corpus_and_says_where_it_lies(cli: Callable, phrases: Path) -> None:
    result = cli("data", "build", "tiny.yaml")
    assert result.code == 0, result.err
    place = next((phrases / "cache" / "corpora").iterdir())
    assert place.name in result.out
    assert str(place) in result.out.replace("\n", "")


def test_overrides_reach_the_data(cli: Callable, phrases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(SpokenPhrases, "prepare_data", lambda self: seen.append(self.spec.train_phrases))
    monkeypatch.setattr(SpokenPhrases, "setup", lambda self, stage=None: None)
    monkeypatch.setattr(SpokenPhrases, "summary", lambda self: {})
    monkeypatch.setattr(SpokenPhrases, "corpus", None)
    assert cli("data", "build", "tiny.yaml", "--data.train_phrases=96").code == 0
    assert seen == [96]


def test_inspect_shows_sizes_overlap_and_shortcuts(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr("lightsleeper.cli.data.SHORTCUT_LIMIT", 0.8)  # so few pairs prove nothing
    result = cli("data", "inspect", "tiny.yaml")
    assert result.code == 0, result.err
    for word in ("unseen_words", "train/unseen_words", "hours", "episodes", "P1", "phone count"):
        assert word in result.out


def test_inspect_fails_when_hard_pairs_can_be_told_without_listening(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat = {"duration": 0.7, "phone_count": 0.5, "text": 0.5, "duration_and_count": 0.9}
    monkeypatch.setattr(SpokenPhrases, "shortcuts", lambda self: {"test": cheat})
    result = cli("data", "inspect", "tiny.yaml")
    assert result.code == 1
    assert "test duration" in result.out


def test_listen_writes_wav_files_with_the_words_times(cli: Callable, tmp_path: Path) -> None:
    result = cli("data", "listen", "tiny.yaml", "--count", "5", "--out", str(tmp_path / "out"))
    assert result.code == 0, result.err
    with open(tmp_path / "out" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert len({row["part"] for row in rows}) > 1
    for row in rows:
        audio, rate = soundfile.read(tmp_path / "out" / row["file"])
        assert rate == 16_000
        assert len(audio) / rate == pytest.approx(float(row["seconds"]), abs=1e-3)
        words = [entry.split(":") for entry in row["words_s"].split(" ")]
        assert [word for word, _ in words] == row["text"].split()
        assert all(0 <= float(t) <= float(row["seconds"]) for _, span in words for t in span.split("-"))


def test_of_running_speech_the_test_streams_are_heard(cli: Callable, tmp_path: Path) -> None:
    write_folder(tmp_path / "people", ["one", "two"], list("abcdef"))
    arguments = "{path: people, chunk_seconds: 2.4, val_quiet_minutes: 0.0, test_quiet_minutes: 0.1, seed: 0}"
    model = "{class_path: lightning.pytorch.demos.boring_classes.BoringModel}"
    recipe = tmp_path / "words.yaml"
    recipe.write_text(
        f"# Words.\nmodel: {model}\ndata: {{class_path: StrungWords, init_args: {arguments}}}\n".replace(
            "path: people", f"path: {tmp_path / 'people'}"
        )
    )
    result = cli("data", "listen", str(recipe), "--count", "40", "--out", str(tmp_path / "out"))
    assert result.code == 0, result.err
    with open(tmp_path / "out" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["content"] for row in rows} == {"speech", "babble", "noise", "silence"}
    for row in rows:
        assert bool(row["words_s"]) == (row["content"] == "speech")
        assert soundfile.info(tmp_path / "out" / row["file"]).duration == 2.4
    assert cli("data", "inspect", str(recipe)).code == 0


def test_speak_makes_a_folder_that_evaluate_reads(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_flite.install(tmp_path / "bin", monkeypatch)
    out = tmp_path / "out"
    result = cli("data", "speak", "tiny.yaml", "--count", "6", "--part", "unseen_words", "--out", str(out))
    assert result.code == 0, result.err
    assert f"lightning evaluate last --data {out}" in result.out
    assert "flite speaks" not in result.err  # no bar where nobody watches
    corpus = SpokenPhrases(
        train_phrases=80, vocabulary=500, max_words=2, episodes=4, validation_episodes=2, held_out_voices=6
    ).corpus
    theirs = [corpus.texts[clip] for clip in corpus.clips("unseen_words")]
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = list(dict.fromkeys(row["text"] for row in rows))
    assert len(said) == 6
    assert said == [text for text in dict.fromkeys(theirs) if text in said]
    assert [sum(len(text.split()) == words for text in said) for words in (1, 2)] == [3, 3]
    again = cli("data", "speak", "tiny.yaml", "--count", "6", "--part", "unseen_words", "--out", str(out))
    assert again.code == 0
    assert len(calls.read_text().splitlines()) == 6 * len(fake_flite.VOICES)
    from lightsleeper.cli.evaluate import data_module, evaluation_sets

    assert len(evaluation_sets(data_module([str(out)]), "test")["test"]) > 0


def test_speak_refuses_in_one_line_before_a_corpus_is_built(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpokenPhrases, "prepare_data", lambda self: pytest.fail("the corpus was built"))

    def refused(*words: str) -> str:
        result = cli("data", "speak", *words)
        assert result.code == 2
        assert len(result.err.splitlines()) == 1
        return result.err

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    fake_flite.install(tmp_path / "bin", monkeypatch)
    assert "is not an empty folder" in refused("tiny.yaml", "--out", str(tmp_path / "mine"))
    (tmp_path / "folder.yaml").write_text(
        "model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}\n"
        "data: {class_path: AudioFolder, init_args: {path: recordings}}\n"
    )
    assert "not AudioFolder" in refused(str(tmp_path / "folder.yaml"), "--out", str(tmp_path / "out"))
    assert "'say'" in refused("tiny.yaml", "--engine", "say", "--out", str(tmp_path / "out"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install flite" in refused("tiny.yaml", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_speak_names_a_part_that_the_corpus_does_not_have(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_flite.install(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("lightsleeper.data.corpus.Corpus.clips", lambda self, part: [])
    result = cli("data", "speak", "tiny.yaml", "--part", "unseen_words", "--out", str(tmp_path / "out"))
    assert result.code == 2
    assert "unseen_words" in result.err
    assert not (tmp_path / "out").exists()


def test_an_action_and_a_recipe_are_needed(cli: Callable) -> None:
    assert cli("data").code == 2
    assert cli("data", "sing", "tiny.yaml").code == 2
    result = cli("data", "build", "nowhere.yaml")
    assert result.code == 2
    assert "nowhere" in result.err


def test_a_wrong_argument_of_the_data_is_named(cli: Callable) -> None:
    result = cli("data", "build", "tiny.yaml", "--data.train_frases=5")
    assert result.code == 2
    assert "train_phrases" in result.err
    result = cli("data", "build", "tiny.yaml", "--data.held_out_words=3")
    assert result.code == 2
    assert "held_out_words" in result.err
