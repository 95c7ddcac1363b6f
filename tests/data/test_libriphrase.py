"""LibriPhrase from a miniature LibriSpeech: alignments, the published construction, CSV files, protocols."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from data.librispeech import WORD_S, WORDS, write_subset
from lightsleeper.data import libriphrase as module
from lightsleeper.data.alignments import WordTable, published_csv, read_alignments
from lightsleeper.data.audio import read_audio
from lightsleeper.data.distance import libriphrase_distance
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.libriphrase import LibriPhrase
from lightsleeper.data.libriphrase_build import COLUMNS, build_rows, find_anchors, find_phrases, most_talkative
from lightsleeper.data.libriphrase_rows import read_test
from lightsleeper.errors import UserError

TEST_SPEAKERS = [11, 12, 13, 14, 15]
TRAIN_SPEAKERS = list(range(21, 31))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setattr(module, "confusions", lambda texts: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("LibriSpeech")
    write_subset(folder, "train-other-500", TEST_SPEAKERS)
    write_subset(folder, "train-clean-100", TRAIN_SPEAKERS, takes=3)
    return folder


def ready(root: Path, **arguments: object) -> LibriPhrase:
    defaults = {"train_subsets": ["train-clean-100"], "workers": 0, "val_speakers": 0.3, "batch_size": 16}
    data = LibriPhrase(root, **{**defaults, **arguments})  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def test_both_layouts_of_alignments_give_the_same_words(tmp_path: Path) -> None:
    tables = []
    for layout in ("text", "csv"):
        write_subset(tmp_path / layout, "train-other-500", [11, 12], layout=layout)
        tables.append(read_alignments(tmp_path / layout, "train-other-500"))
    text, table = tables
    assert text.utterances == table.utterances == ["11-100-0000", "12-100-0000"]
    np.testing.assert_array_equal(text.utterance, table.utterance)
    np.testing.assert_allclose(text.start, table.start)
    np.testing.assert_allclose(text.end, table.end)
    assert [text.vocabulary[w] if w >= 0 else "" for w in text.word] == [
        table.vocabulary[w] if w >= 0 else "" for w in table.word
    ]
    assert (text.word == -1).sum() == 2 * 12  # pauses


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"librispeech": "nowhere"}, "LibriSpeech folder nowhere does not exist"),
        ({"train_subsets": ["train-clean-360"]}, "no folder train-clean-360"),
        ({"test_subset": "dev-clean"}, "no folder dev-clean"),
        ({"alignments": "nowhere"}, "folder of alignments nowhere does not exist"),
        ({"alignments": "."}, "no word alignments of train-clean-100"),
        ({"test_csv": "nowhere"}, "LibriPhrase CSV files nowhere does not exist"),
        ({"test_csv": "."}, "holds no LibriPhrase CSV files"),
    ],
)
def test_the_check_names_what_is_missing_and_reads_nothing(
    arguments: dict, expected: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightsleeper.data.alignments._collect", lambda rows: pytest.fail("parsed"))
    whole = {"librispeech": root, "train_subsets": ["train-clean-100"]}
    LibriPhrase(**whole).check()
    with pytest.raises(UserError, match=expected):
        LibriPhrase(**{**whole, **arguments}).check()
    assert not list(tmp_path.iterdir())


def test_the_second_reading_of_alignments_comes_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_alignments(root, "train-other-500")
    monkeypatch.setattr("lightsleeper.data.alignments._collect", lambda rows: pytest.fail("parsed again"))
    again = read_alignments(root, "train-other-500")
    np.testing.assert_array_equal(first.word, again.word)
    assert (first.utterances, first.vocabulary) == (again.utterances, again.vocabulary)


@pytest.mark.parametrize(
    ("subset", "name"),
    [
        ("train-other-500", "librispeech_other_train_500h_all_utt.csv"),
        ("train-clean-100", "librispeech_clean_train_100h_all_utt.csv"),
        ("dev-clean", "librispeech_clean_dev_all_utt.csv"),
    ],
)
def test_csv_names_are_those_of_the_release(subset: str, name: str) -> None:
    assert published_csv(subset) == name


def test_phrases_are_neighbouring_words_without_a_pause_of_half_to_two_seconds(root: Path) -> None:
    table = read_alignments(root, "train-other-500")
    for words, expected in ((1, 36), (2, 24), (3, 12), (4, 0)):  # a pause after every third of 36 words
        phrases = find_phrases(table, words)
        assert len(phrases) == expected * len(TEST_SPEAKERS)
        texts = phrases.texts()
        for phrase in range(0, len(phrases), 5):
            utterance, start, end = phrases.clip(phrase)
            assert end - start == pytest.approx(words * WORD_S)
            assert phrases.seconds[phrase] == pytest.approx(words * WORD_S)
            assert len(texts[phrases.text[phrase]].split()) == words
            assert utterance.split("-")[0] == phrases.speakers[phrases.speaker[phrase]]


def test_texts_are_numbered_by_first_occurrence(root: Path) -> None:
    phrases = find_phrases(read_alignments(root, "train-other-500"), 2)
    texts = phrases.texts()
    assert len(set(texts)) == len(texts)
    assert list(dict.fromkeys(phrases.text.tolist())) == list(range(len(texts)))


@pytest.mark.parametrize(("word_s", "found"), [(0.49, False), (0.5, True), (2.0, True), (2.01, False)])
def test_the_bounds_of_a_phrase_are_inclusive(tmp_path: Path, word_s: float, found: bool) -> None:
    write_subset(tmp_path, "dev-clean", [1], takes=1, word_s=word_s)
    # Whole milliseconds in the file: sums of differences are off by less than that.
    phrases = find_phrases(read_alignments(tmp_path, "dev-clean"), 1)
    assert bool(len(phrases)) == found


def test_speakers_are_those_with_most_phrases(tmp_path: Path) -> None:
    write_subset(tmp_path / "a", "dev-clean", [1, 2], takes=1)
    write_subset(tmp_path / "b", "dev-clean", [3], takes=4)
    table = read_alignments(tmp_path / "a", "dev-clean")
    assert [p.speakers[s] for p in [find_phrases(table, 1)] for s in most_talkative([p], 1)] == ["1"]
    assert len(most_talkative([find_phrases(table, 1)], 5)) == 2


def test_anchors_are_said_often_by_the_speaker_and_by_enough_others(root: Path) -> None:
    phrases = find_phrases(read_alignments(root, "train-other-500"), 2)
    everyone = np.arange(len(phrases.speakers))
    counts = Counter(zip(phrases.speaker.tolist(), phrases.text.tolist(), strict=True))
    for pairs in (2, 1):
        expected = {
            (s, t)
            for (s, t), n in counts.items()
            if n >= 2 * pairs and sum((o, t) in counts for o in everyone.tolist() if o != s) >= pairs
        }
        assert set(find_anchors(phrases, everyone, pairs)) == expected
    assert expected
    assert find_anchors(phrases, everyone[:1], 1) == []  # only the chosen speakers count


def test_construction_follows_the_published_steps(root: Path) -> None:
    phrases = find_phrases(read_alignments(root, "train-other-500"), 1)
    anchors = find_anchors(phrases, np.arange(5))
    assert len(anchors) == 5 * len(WORDS)
    rows = build_rows(phrases, anchors, seed=0)
    said = [phrases.texts()[t] for t in phrases.text]
    by_anchor = defaultdict(list)
    for row in rows:
        by_anchor[row.anchor].append(row)
    assert len(by_anchor) == 3 * len(anchors)
    positives = defaultdict(set)
    for anchor, mine in by_anchor.items():
        assert Counter(row.type for row in mine) == {"diffspk_positive": 3, "diffspk_easyneg": 3, "diffspk_hardneg": 3}
        others = [row.comparison for row in mine if row.type == "diffspk_positive"]
        assert {said[c] for c in others} == {said[anchor]}
        speakers = {int(phrases.speaker[c]) for c in others}
        assert len(speakers) == 3
        assert int(phrases.speaker[anchor]) not in speakers
        positives[int(phrases.speaker[anchor]), said[anchor]].add(frozenset(others))
        assert all(said[row.comparison] != said[anchor] for row in mine if row.type != "diffspk_positive")
    assert all(len(sets) == 1 for sets in positives.values())  # drawn once for the three anchors


def test_hard_negatives_are_near_and_never_sound_alike_while_easy_ones_may(root: Path) -> None:
    phrases = find_phrases(read_alignments(root, "train-other-500"), 1)
    rows = build_rows(phrases, find_anchors(phrases, np.arange(5)), seed=0)
    said = [phrases.texts()[t] for t in phrases.text]

    def texts(anchor: str, kind: str) -> Counter:
        return Counter(said[r.comparison] for r in rows if said[r.anchor] == anchor and r.type == kind)

    assert texts("friend", "diffspk_hardneg")["trend"] == 15  # of 15 anchor clips
    assert texts("two", "diffspk_hardneg")["too"] == 0
    assert texts("two", "diffspk_easyneg")["too"] > 0


def table_of(said: dict[int, list[str]], seconds: list[float] | float = WORD_S) -> WordTable:
    """What each speaker says in one utterance, "" for a pause."""
    words = [word for some in said.values() for word in some]
    vocabulary = sorted({*words} - {""})
    end = np.cumsum(np.broadcast_to(seconds, len(words)))
    return WordTable(
        [f"{speaker}-100-0000" for speaker in said],
        np.repeat(np.arange(len(said)), [len(some) for some in said.values()]).astype(np.int32),
        end - seconds,
        end,
        np.array([vocabulary.index(word) if word else -1 for word in words], np.int32),
        vocabulary,
    )


@pytest.mark.parametrize(
    ("times", "anchors"),
    [([6, 1, 1, 1], [0]), ([5, 1, 1, 1], []), ([6, 1, 1], []), ([5, 6, 6, 5, 1], [1, 2]), ([9, 0, 1, 1], [])],
)
def test_an_anchor_is_said_six_times_by_its_speaker_and_by_three_others(times: list[int], anchors: list[int]) -> None:
    phrases = find_phrases(table_of({speaker: ["", *["friend"] * count] for speaker, count in enumerate(times)}), 1)
    everyone = np.arange(len(phrases.speakers))
    assert [phrases.speakers[speaker] for speaker, _ in find_anchors(phrases, everyone)] == [str(a) for a in anchors]


@pytest.mark.parametrize(
    ("words", "vocabulary", "count"), [(1, WORDS, 200), (2, WORDS, 600), (3, WORDS[3:], 500), (4, WORDS[3:], 1200)]
)
def test_every_row_keeps_to_the_rules(words: int, vocabulary: tuple[str, ...], count: int) -> None:
    rng = np.random.default_rng(words)
    said = {speaker: rng.choice([*vocabulary, ""], count).tolist() for speaker in range(5)}
    table = table_of(said, rng.uniform(0.15, 0.75, 5 * count).tolist())
    phrases = find_phrases(table, words)
    rows = build_rows(phrases, find_anchors(phrases, np.arange(5)), seed=0)
    names = phrases.texts()
    texts = [names[text] for text in phrases.text]
    spoken = {text: Lexicon.default().pronounce(text).joined for text in set(texts)}
    times = Counter(zip(phrases.speaker.tolist(), texts, strict=True))
    kinds: dict[int, Counter] = defaultdict(Counter)
    hard = set()
    for row in rows:
        kinds[row.anchor][row.type] += 1
        for phrase in (row.anchor, row.comparison):
            first = phrases.first[phrase]
            lengths = (table.end - table.start)[first : first + words]
            assert 0.5 <= lengths.sum() <= 2.0
            assert len(texts[phrase].split()) == words
        assert times[int(phrases.speaker[row.anchor]), texts[row.anchor]] >= 6
        same = texts[row.anchor] == texts[row.comparison]
        assert same == (row.type == "diffspk_positive")
        if same:
            assert phrases.speaker[row.anchor] != phrases.speaker[row.comparison]
        if row.type == "diffspk_hardneg":
            hard.add((spoken[texts[row.anchor]], spoken[texts[row.comparison]]))
    assert len(kinds) > 10
    assert all(libriphrase_distance(*pair) > 0 for pair in hard)
    for counted in kinds.values():
        assert counted == {"diffspk_positive": 3, "diffspk_easyneg": 3, "diffspk_hardneg": 3}


def test_the_same_seed_builds_the_same_rows(root: Path) -> None:
    phrases = find_phrases(read_alignments(root, "train-other-500"), 1)
    anchors = find_anchors(phrases, np.arange(5))
    assert build_rows(phrases, anchors, seed=1) == build_rows(phrases, anchors, seed=1)
    assert build_rows(phrases, anchors, seed=1) != build_rows(phrases, anchors, seed=2)


def test_csv_files_have_the_published_columns_and_their_clips_hold_the_words(root: Path, tmp_path: Path) -> None:
    ready(root)
    (file,) = (tmp_path / "cache" / "libriphrase").glob("*/libriphrase_diffspk_all_1word.csv")
    assert len(list(file.parent.glob("libriphrase_*.csv"))) == 4
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        rows = list(reader)
    assert len(rows) == 5 * len(WORDS) * 3 * 9
    assert rows == sorted(rows, key=lambda r: [r[k] for k in ("anchor_spk", "anchor_text", "target", "type")])
    test = read_test(file.parent, None, root)
    for i in range(0, len(test.rows), 97):
        audio = test.segments.audio(test.comparison[i])
        assert len(audio) / 16_000 == pytest.approx(WORD_S, abs=0.01)
        peak = np.argmax(np.abs(np.fft.rfft(audio))) / (len(audio) / 16_000)
        assert peak == pytest.approx(200 + 100 * WORDS.index(test.rows[i]["comparison_text"]), abs=5)


def test_p1_types_the_anchors_text_over_the_comparison_clip(root: Path) -> None:
    data = ready(root)
    pairs = data.tests[""]
    assert pairs.protocol == "P1"
    assert data.test_names == [""]
    spoken = {c: r["comparison_text"] for c, r in zip(data.test_rows.comparison, data.test_rows.rows, strict=True)}
    for row in range(0, len(pairs), 7):
        text = pairs.texts[pairs.text[row]]
        assert pairs.label[row] == (spoken[int(pairs.clip[row])] == text)
        assert pairs.label[row] == (pairs.kind[row] == 0)
    assert len(np.unique(pairs.episode)) == 5 * len(WORDS)
    keys = list(zip(pairs.clip, pairs.text, pairs.kind, pairs.episode, strict=True))
    assert len(set(keys)) == len(keys)  # the three anchors' common positives count once


def test_p2_is_balanced_and_keeps_the_positives_of_easy_and_hard_rows_apart(root: Path) -> None:
    data = ready(root, protocol="P2")
    assert data.test_names == ["", "lpe"]
    hard, easy = data.tests[""], data.tests["lpe"]
    assert hard.protocol == easy.protocol == "P2"
    assert (hard.kind == 0).sum() == (hard.kind == 2).sum()
    assert (easy.kind == 0).sum() == (easy.kind == 1).sum() == (hard.kind == 1).sum()
    assert len(data.test_dataloader()) == 2
    assert data.summary()["protocol"] == "P2"


def test_official_csv_files_are_read_as_they_are(root: Path, tmp_path: Path) -> None:
    ready(root)
    (file,) = (tmp_path / "cache" / "libriphrase").glob("*/libriphrase_diffspk_all_1word.csv")
    built = read_test(file.parent, None, root)
    official, audio = tmp_path / "official", tmp_path / "LibriPhrase"
    official.mkdir()
    (official / "testset_librispeech_other_train_500h_short_phrase_1word.csv").write_bytes(file.read_bytes())
    import soundfile

    for i, row in enumerate(built.rows):
        for side, clip in (("anchor", built.anchor[i]), ("comparison", built.comparison[i])):
            path = audio / row[side]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, built.segments.audio(clip), 16_000)
    data = ready(root, test_csv=official, test_audio=audio)
    assert data.summary()["test"] == "official CSV files"
    assert len(data.test_rows.rows) == len(built.rows)
    assert np.isinf(data.test_rows.segments.end).all()
    np.testing.assert_allclose(
        data.test_rows.segments.audio(data.test_rows.anchor[0]), built.segments.audio(built.anchor[0]), atol=1e-4
    )
    batch = next(iter(data.test_dataloader()[0]))
    assert batch["audio"].shape[1] >= 0.59 * 16_000


def test_training_and_test_share_no_speaker_and_validation_is_apart(root: Path) -> None:
    data = ready(root)
    summary = data.summary()
    assert summary["overlap"]["speakers"] == 0
    trained = {data.speakers[clip] for clip in data.train_clips}
    validated = {data.speakers[clip] for clip in data.validation.clip}
    assert len(trained | validated) == len(TRAIN_SPEAKERS)
    assert not trained & validated
    assert summary["counts"]["train"] == len(data.train_clips)


def test_no_speaker_of_the_clean_subsets_is_tested_on(tmp_path: Path) -> None:
    clean = {"train-clean-100": [21, 22, 23, 24], "train-clean-360": [31, 32, 33, 34]}
    for subset, speakers in {**clean, "train-other-500": TEST_SPEAKERS}.items():
        write_subset(tmp_path, subset, speakers)
    data = ready(tmp_path, train_subsets=None, val_speakers=0.5)
    trained = {data.speakers[clip] for clip in (*data.train_clips, *data.validation.clip)}
    tested = {row[side] for row in data.test_rows.rows for side in ("anchor_spk", "comparison_spk")}
    assert trained == {str(speaker) for speakers in clean.values() for speaker in speakers}
    assert tested == {str(speaker) for speaker in TEST_SPEAKERS}
    folders = {data.test_rows.segments.files[clip].parts[-4] for clip in data.tests[""].clip}
    assert folders == {"train-other-500"}


def test_a_speaker_who_is_trained_and_tested_on_is_counted(root: Path, tmp_path: Path) -> None:
    ready(root)
    (file,) = (tmp_path / "cache" / "libriphrase").glob("*/libriphrase_diffspk_all_1word.csv")
    official = tmp_path / "official"
    official.mkdir()
    (official / file.name).write_bytes(file.read_bytes())
    (official / "clips_1word.csv").write_bytes(file.with_name("clips_1word.csv").read_bytes())
    write_subset(tmp_path / "libri", "train-other-500", TEST_SPEAKERS)
    data = ready(tmp_path / "libri", test_csv=official, train_subsets=["train-other-500"])
    trained = {data.speakers[clip] for clip in data.train_clips}
    assert data.summary()["overlap"]["speakers"] == len(trained) > 0


def test_the_same_seed_gives_the_same_pairs_and_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(number: int, **other: object) -> tuple[list[str], list[torch.Tensor], str]:
        monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(root / f"cache{number}"))  # nothing comes from an earlier one
        data = ready(root, **{"negatives_per_clip": 2, "phrases_per_length": 20, "seed": 1, **other})
        pairs = [some.content_hash() for some in (*data.tests.values(), data.validation)]
        return (
            pairs,
            [b[key] for b in data.train_dataloader() for key in ("audio", "negative_phones")],
            data.summary()["hash"],
        )

    pairs, batches, key = drawn(0)
    again, same, other_key = drawn(1)
    assert (again, other_key) == (pairs, key)
    assert all(torch.equal(a, b) for a, b in zip(batches, same, strict=True))
    assert drawn(2, seed=2)[0] == pairs
    assert not torch.equal(drawn(2, seed=2)[1][0], batches[0])
    assert not set(drawn(3, split_seed=1)[0]) & set(pairs)


def test_training_rows_hold_the_phrase_that_their_text_says(root: Path) -> None:
    data = ready(root, negatives_per_clip=2, phrases_per_length=20)
    assert len(data.train_clips) == 20 * 3
    for batch in data.train_dataloader():
        assert batch["negative_phones"].shape[:2] == (len(batch["text"]), 2)
        for text, length in zip(batch["text"], batch["audio_lengths"].tolist(), strict=True):
            assert length / 16_000 == pytest.approx(WORD_S * len(text.split()), abs=0.01)


def test_summary_is_reproducible(root: Path) -> None:
    assert ready(root, seed=3).summary() == ready(root, seed=4).summary()
    assert ready(root, split_seed=3).summary()["hash"] != ready(root, split_seed=4).summary()["hash"]


def test_a_damaged_recording_is_refused_or_skipped_before_training(tmp_path: Path) -> None:
    write_subset(tmp_path, "train-other-500", TEST_SPEAKERS)
    write_subset(tmp_path, "train-clean-100", TRAIN_SPEAKERS, takes=3)
    broken = tmp_path / "train-clean-100" / "24" / "100" / "24-100-0000.flac"
    broken.write_bytes(b"no audio")
    (tmp_path / "train-other-500" / "12" / "100" / "12-100-0000.flac").unlink()
    with pytest.raises(UserError, match="12-100-0000.flac: does not exist"):
        ready(tmp_path)
    with pytest.warns(UserWarning, match="2 audio files skipped"):
        data = ready(tmp_path, on_bad_file="skip")
    assert "24" not in {data.speakers[clip] for clip in data.train_clips}
    assert data.summary()["counts"]["skipped_files"] == 2
    assert sum(len(batch["text"]) for batch in data.test_dataloader()[0]) == len(data.tests[""])


def test_a_recording_that_ends_before_its_phrase_is_refused(tmp_path: Path) -> None:
    write_subset(tmp_path, "train-other-500", TEST_SPEAKERS)
    write_subset(tmp_path, "train-clean-100", TRAIN_SPEAKERS, takes=3)
    short = tmp_path / "train-clean-100" / "24" / "100" / "24-100-0000.flac"
    import soundfile

    soundfile.write(short, read_audio(short)[:32_000], 16_000)
    with pytest.raises(UserError, match=r"24-100-0000\.flac: ends at 2\.00 s, before its phrase"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_subset": "train-others-500"}, "Did you mean 'train-other-500'"),
        ({"train_subsets": ["train-other-500"]}, "both trained and tested on"),
        ({"max_words": 5}, "max_words is 5"),
        ({"train_subsets": ["train-clean-360"]}, "no folder train-clean-360"),
        ({"test_csv": "nowhere"}, "nowhere does not exist"),
        ({"alignments": "nowhere"}, "alignments nowhere does not exist"),
    ],
)
def test_what_is_missing_or_wrong_is_named(root: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(root, **arguments)


def test_missing_alignments_say_where_they_were_looked_for(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"librispeech_other_train_500h_all_utt\.csv .* or .*alignment\.txt"):
        ready(root, alignments=empty)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("audio,start,end,text\n", "no column 'audio_filename'"),
        ("audio_filename,start,end,text\na/1/2/1-2-3.wav,zero,1,x\n", "line 2: start and end are no numbers"),
        ("audio_filename,start,end,text\n", "hold no words"),
    ],
)
def test_a_wrong_alignment_csv_is_named_with_its_line(root: Path, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "alignments.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        ready(root, alignments=file)


def test_a_wrong_alignment_text_is_named_with_its_line(tmp_path: Path) -> None:
    write_subset(tmp_path, "train-other-500", [11])
    file = next(tmp_path.glob("train-other-500/*/*/*.alignment.txt"))
    file.write_text('11-100-0000 ",GO" "0.5"\n')
    with pytest.raises(UserError, match=r"11-100\.alignment\.txt, line 1: expected ID"):
        read_alignments(tmp_path, "train-other-500")


def test_test_csv_files_with_wrong_columns_or_types_are_named(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "x_1word.csv"
    file.write_text("anchor,anchor_spk\n")
    with pytest.raises(UserError, match="no column 'anchor_text'"):
        read_test(tmp_path, None, root)
    file.write_text(",".join(COLUMNS) + "\na,1,x,1,b,2,y,1,samespk_easyneg,0,1\n")
    with pytest.raises(UserError, match="type 'samespk_easyneg'"):
        read_test(tmp_path, None, root)
    file.unlink()
    with pytest.raises(UserError, match="holds no LibriPhrase CSV files"):
        read_test(tmp_path, None, root)
