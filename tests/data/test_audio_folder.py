"""Own recordings: manifest, splits, pairs, bad files, cache, mixing."""

import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from data.recordings import write_folder
from lightsleeper.data.audio_folder import AudioFolder
from lightsleeper.data.lexicon import near_words
from lightsleeper.data.mixing import join_batches
from lightsleeper.data.rows import NegativeTexts, Pronouncer
from lightsleeper.errors import UserError

TEXTS = ["one", "two", "three", "four", "five"]
SPEAKERS = ["ann", "ben", "cid", "dan", "eve", "fay"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "recordings", TEXTS, SPEAKERS)


@pytest.fixture(autouse=True)
def no_word_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightsleeper.data.audio_folder.confusions", lambda texts: None)


def ready(folder: Path, **arguments: object) -> AudioFolder:
    module = AudioFolder(folder, **{"batch_size": 8, **arguments})  # type: ignore[arg-type]
    module.prepare_data()
    module.setup()
    return module


def names(module: AudioFolder, part: str, what: str = "speaker") -> set[str]:
    return {getattr(module.recordings[clip], what) for clip in module.split[part]}


def test_speakers_of_the_test_never_occur_in_training_or_validation(folder: Path) -> None:
    module = ready(folder, test_speakers=["ben", "eve"], val_fraction=0.25)
    assert names(module, "test") == {"ben", "eve"}
    assert not names(module, "train") & names(module, "val")
    assert names(module, "train") | names(module, "val") == {"ann", "cid", "dan", "fay"}
    assert module.summary()["overlap"] == {"speakers": 0, "texts": 5, "unseen_words_texts": 0, "clips": 0}


def test_runs_of_several_seeds_test_the_same_speakers_clips_and_pairs(folder: Path) -> None:
    one, other = ready(folder, seed=1, max_test_clips=5), ready(folder, seed=2, max_test_clips=5)
    assert one.split == other.split
    assert one.tests["test"].content_hash() == other.tests["test"].content_hash()
    drawn = [names(ready(folder, split_seed=number), "test") for number in range(6)]
    assert len({frozenset(speakers) for speakers in drawn}) > 1


def test_the_seed_of_the_run_is_taken_when_none_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    first = [next(iter(ready(folder, seed=seed).train_dataloader()))["text"] for seed in (None, 5, 6)]
    assert first[0] == first[1] != first[2]


def test_without_speakers_clips_are_split_and_the_record_says_that_speakers_are_unknown(tmp_path: Path) -> None:
    module = ready(write_folder(tmp_path / "r", TEXTS, ["ann", "ben"], takes=4, header=("path", "text")))
    parts = [set(clips) for clips in module.split.values()]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 40
    assert len(module.split["test"]) == 8
    assert module.summary()["overlap"]["speakers"] is None


def test_held_out_texts_are_only_tested_and_on_their_own(folder: Path) -> None:
    module = ready(folder, test_speakers=["ben"], held_out_texts=["Three"], negatives_per_clip=3)
    assert module.test_names == ["", "unseen_words"]
    assert names(module, "train", "text") == names(module, "val", "text") == set(TEXTS) - {"three"}
    assert names(module, "test", "text") == set(TEXTS) - {"three"}
    assert names(module, "test unseen_words", "text") == {"three"}
    assert names(module, "test unseen_words") == {"ben"}
    assert "three" not in module.validation.texts
    three = module.lexicon.pronounce("three").phones
    for batch in module.train_dataloader():
        for clip in batch["negative_phones"].tolist():
            assert three not in [[p for p in phones if p] for phones in clip]
    assert len(module.test_dataloader()) == 2


def test_recordings_without_a_speaker_beside_named_ones_are_tested_on_their_own(folder: Path, tmp_path: Path) -> None:
    crowd = write_folder(tmp_path / "crowd", ["jarvis"], ["x", "y", "z"], takes=3, header=("path", "text"))
    module = AudioFolder([str(folder), str(crowd)], test_fraction=0.34, batch_size=8)
    with pytest.warns(UserWarning, match="9 recordings name no speaker .* 'unknown_speakers'"):
        module.setup()
    assert module.test_names == ["", "unknown_speakers"]
    assert names(module, "test unknown_speakers", "text") == {"jarvis"}
    assert len(module.split["test unknown_speakers"]) == 9
    assert len(names(module, "test")) == 2  # a third of the named speakers: unnamed clips count as none
    for part in ("train", "val", "test"):
        assert "" not in names(module, part)
    assert module.summary()["overlap"]["speakers"] == 0
    assert {text for batch in module.test_dataloader()[1] for text in batch["text"]} == {*TEXTS, "jarvis"}


def test_without_any_speaker_the_user_is_warned_before_training_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "r", TEXTS, ["ann", "ben"], header=("path", "text"))
    with pytest.warns(UserWarning, match="may hold the same voices"):
        ready(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(folder, evaluate_only=True)


def test_further_folders_are_tested_under_their_names_and_never_trained_on(folder: Path, tmp_path: Path) -> None:
    wake = write_folder(tmp_path / "wake", ["jarvis", "smart mirror"], ["ann", "zoe"], takes=1)
    module = ready(folder, also_test={"wake": str(wake)}, test_speakers=["ben"], held_out_texts=["two"])
    assert module.test_names == ["", "unseen_words", "wake"]
    assert ready(folder, test_speakers=["ben"], held_out_texts=["two"]).split == module.split
    alone = AudioFolder(wake, evaluate_only=True)
    alone.setup("test")
    assert module.also_test["wake"].tests["test"].content_hash() == alone.tests["test"].content_hash()
    summary = module.summary()
    assert summary["also_test"]["wake"] == alone.summary()
    assert summary["overlap"]["train/wake"] == {"speakers": 1, "texts": 0, "clips": 0}


def test_bad_files_of_further_folders_are_refused_before_training_too(folder: Path, tmp_path: Path) -> None:
    wake = write_folder(tmp_path / "wake", ["jarvis", "smart mirror"], ["zoe"], takes=1)
    (wake / "zoe" / "jarvis_0.wav").unlink()
    with pytest.raises(UserError, match="1 of 2 audio files cannot be used: .*jarvis_0.wav: does not exist"):
        AudioFolder(folder, also_test={"wake": str(wake)}).prepare_data()


def test_a_folder_that_is_trained_on_is_not_also_tested(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="also_test: 60 of the 60 recordings of 'again' are in path too"):
        ready(folder, also_test={"again": str(tmp_path / "link")})


@pytest.mark.parametrize("name", ["test", "unseen_words", "unknown_speakers", "synthetic", "mix_x", "a/b", ""])
def test_a_name_that_a_test_set_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"also_test: '{name}' cannot name a test set"):
        AudioFolder("x", also_test={name: "y"})


def test_the_test_sets_of_spoken_phrases_mixed_in_are_called_synthetic(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightsleeper.data.spoken_phrases import SpokenPhrases

    monkeypatch.setattr(SpokenPhrases, "load", lambda self: None)
    monkeypatch.setattr(SpokenPhrases, "test_dataloader", lambda self: ["seen", "unseen"])
    module = ready(folder, mix=SpokenPhrases())
    assert module.test_names == ["", "synthetic", "synthetic_unseen_words"]
    assert module.test_dataloader()[1:] == ["seen", "unseen"]


class Listener(L.LightningModule):
    """Notes the texts that are typed in each test set, under the name that a model reports it by."""

    def __init__(self) -> None:
        super().__init__()
        self.typed: dict[str, set[str]] = {}

    def test_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        self.typed.setdefault(name, set()).update(batch["text"])


def test_each_test_set_reaches_a_model_under_its_own_name(folder: Path, tmp_path: Path) -> None:
    crowd = write_folder(tmp_path / "crowd", ["jarvis"], ["x"], header=("path", "text"))
    wake = write_folder(tmp_path / "wake", ["hello", "stop"], ["zoe"])
    old = AudioFolder(write_folder(tmp_path / "old", ["cat", "dog", "cow"], ["x", "y", "z"]), held_out_texts=["cow"])
    module = AudioFolder(
        [str(folder), str(crowd)], held_out_texts=["two"], mix=old, also_test={"wake": str(wake)}, batch_size=8
    )
    listener = Listener()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(listener, datamodule=module, verbose=False)
    own = {*TEXTS, "jarvis"}
    assert listener.typed == {
        "": own, "unseen_words": own, "unknown_speakers": own, "wake": {"hello", "stop"},
        "mix": {"cat", "dog", "cow"}, "mix_unseen_words": {"cat", "dog", "cow"},
    }  # fmt: skip
    assert list(listener.typed) == module.test_names
    assert len(module.test_dataloader()) == len(module.test_names)


def test_every_test_clip_meets_every_text_and_its_nearest_is_hard(folder: Path) -> None:
    module = ready(folder, evaluate_only=True, vocabulary=["jarvis"])
    (loader,) = module.test_dataloader()
    rows = [(c, t, k, y) for b in loader for c, t, k, y in zip(
        b["clip"].tolist(), b["text"], b["kind"].tolist(), b["label"].tolist(), strict=True)]  # fmt: skip
    assert len(rows) == len(module.recordings) * 6
    assert [c for c, *_ in rows] == sorted(c for c, *_ in rows)
    for clip in {c for c, *_ in rows}:
        mine = {t: (k, y) for c, t, k, y in rows if c == clip}
        assert mine[module.recordings[clip].text] == (0, 1)
        assert sorted(k for k, _ in mine.values()) == [0, 1, 1, 1, 1, 2]
    assert module.val_dataloader() == []
    assert module.summary()["protocol"] == "closed set"
    with pytest.raises(UserError, match="evaluate_only"):
        module.train_dataloader()


def test_many_texts_make_episodes(tmp_path: Path) -> None:
    from lightsleeper.data.lexicon import common_words

    folder = write_folder(tmp_path / "r", common_words(60), ["ann", "ben", "cid"], takes=1)
    module = ready(folder, evaluate_only=True)
    assert module.summary()["protocol"] == "P1"
    pairs = module.tests["test"]
    said = [module.recordings[clip].text for clip in pairs.clip]
    typed = [pairs.texts[text] for text in pairs.text]
    assert [int(a == b) for a, b in zip(said, typed, strict=True)] == pairs.label.tolist()


def test_evaluation_audio_is_the_clips_own(folder: Path) -> None:
    module = ready(folder, evaluate_only=True)
    (loader,) = module.test_dataloader()
    batch = next(iter(loader))
    for row in range(8):
        clip = int(batch["clip"][row])
        expected = torch.from_numpy(module.clips.audio(clip))
        torch.testing.assert_close(batch["audio"][row, : batch["audio_lengths"][row]], expected)


def test_training_batches_are_a_pure_function_of_seed_and_epoch(folder: Path) -> None:
    def epoch(number: int, seed: int) -> tuple[list[int], dict[int, list]]:
        loader = ready(folder, negatives_per_clip=2, seed=seed, test_speakers=["ann"]).train_dataloader()
        loader.batch_sampler.set_epoch(number)
        batches = list(loader)
        order = [index for batch in batches for index in batch["index"].tolist()]
        drawn = [[[p for p in n if p] for n in clip] for batch in batches for clip in batch["negative_phones"].tolist()]
        return order, dict(zip(order, drawn, strict=True))

    order, negatives = epoch(2, 1)
    assert epoch(2, 1) == (order, negatives)
    later_order, later_negatives = epoch(3, 1)
    assert later_order != order
    assert sum(later_negatives[i] != negatives[i] for i in negatives) > len(negatives) / 2
    assert epoch(2, 2)[0] != order


def test_workers_that_live_on_draw_the_negatives_of_the_new_epoch(folder: Path) -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        loader = ready(folder, negatives_per_clip=2, workers=workers, test_speakers=["ann"]).train_dataloader()
        result = []
        for number in range(2):
            loader.batch_sampler.set_epoch(number)
            result.append(torch.cat([b["negative_phones"].sum(dim=(1, 2)) for b in loader]))
        return result

    for here, there in zip(epochs(0), epochs(1), strict=True):
        torch.testing.assert_close(here, there)


def test_the_index_of_a_clip_is_stable_over_epochs(folder: Path) -> None:
    module = ready(folder, test_speakers=["ann"])
    loader = module.train_dataloader()
    for number in range(2):
        loader.batch_sampler.set_epoch(number)
        for batch in loader:
            for index, text in zip(batch["index"].tolist(), batch["text"], strict=True):
                assert module.recordings[module.split["train"][index]].text == text


def test_own_pronunciations_reach_the_batches(folder: Path) -> None:
    module = ready(folder, pronunciations={"one": "B OY"}, evaluate_only=True)
    assert module.lexicon.pronounce("one").joined == "BOY"


def test_several_folders_are_pooled(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "more", ["smart mirror"], ["zoe"])
    module = AudioFolder([str(folder), str(other)], evaluate_only=True)
    module.setup("test")
    assert len(module.recordings) == 62
    assert "smart mirror" in module.tests["test"].texts


def test_texts_and_clip_limits_choose_recordings(folder: Path) -> None:
    module = ready(folder, texts=["one", "Two"], evaluate_only=True, max_test_clips=7)
    assert names(module, "test", "text") <= {"one", "two"}
    assert len(module.split["test"]) == 7


def damage(folder: Path) -> list[Path]:
    gone, broken = folder / "ann" / "one_0.wav", folder / "ben" / "two_1.wav"
    gone.unlink()
    broken.write_bytes(b"noise")
    return [gone, broken]


def test_bad_files_are_refused_by_name_before_training(folder: Path) -> None:
    gone, broken = damage(folder)
    with pytest.raises(UserError, match="2 of 60 audio files cannot be used") as caught:
        AudioFolder(folder).prepare_data()
    message = str(caught.value)
    assert f"{gone}: does not exist" in message
    assert f"{broken}: is damaged" in message
    assert "on_bad_file to skip" in message


def test_at_most_five_bad_files_are_listed(folder: Path) -> None:
    for path in sorted((folder / "cid").glob("*.wav"))[:8]:
        path.unlink()
    with pytest.raises(UserError, match="8 of 60 .* and 3 more") as caught:
        AudioFolder(folder).prepare_data()
    assert str(caught.value).count("does not exist") == 5


def test_skipped_files_are_named_once_and_counted(folder: Path) -> None:
    gone, broken = damage(folder)
    with pytest.warns(UserWarning, match="2 audio files skipped") as seen:
        module = ready(folder, on_bad_file="skip", evaluate_only=True)
    assert len([w for w in seen if "skipped" in str(w.message)]) == 1
    assert len(module.split["test"]) == 58
    summary = module.summary()
    assert summary["counts"]["skipped_files"] == 2
    assert summary["skipped"] == [str(gone), str(broken)]


def test_a_folder_of_only_bad_files_is_refused_even_when_skipping(folder: Path) -> None:
    for path in folder.glob("*/*.wav"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="60 of 60"):
        AudioFolder(folder, on_bad_file="skip").prepare_data()


def test_recordings_are_decoded_once_until_a_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightsleeper.data import clip_cache

    read: list[Path] = []
    real = clip_cache.read_audio
    monkeypatch.setattr(clip_cache, "read_audio", lambda path: read.append(path) or real(path))
    ready(folder)
    assert len(read) == 60
    ready(folder)
    assert len(read) == 60
    (folder / "ann" / "one_0.wav").write_bytes((folder / "ann" / "two_1.wav").read_bytes())
    ready(folder)
    assert len(read) == 120


def test_the_hash_follows_the_audio_and_the_split(folder: Path) -> None:
    first = ready(folder, split_seed=0).summary()["hash"]
    assert ready(folder, split_seed=0).summary()["hash"] == first
    assert ready(folder, split_seed=1).summary()["hash"] != first
    (folder / "ann" / "one_0.wav").write_bytes((folder / "ann" / "two_1.wav").read_bytes())
    assert ready(folder, split_seed=0).summary()["hash"] != first


def manifest(folder: Path, text: str) -> Path:
    (folder / "manifest.csv").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.wav,one\n", r"no column 'text'; its header is 'path,label'"),
        ("path,text\n", "lists no recordings"),
        ("path,text\n,one\n", "line 2: no path"),
        ("path,text\na.wav,one\nb.wav,42\n", "line 3: '42' can be said in several ways"),
        ("path,text\na.wav,\n", "line 2: no words"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AudioFolder(manifest(tmp_path, content)).prepare_data()


def test_a_missing_folder_or_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        AudioFolder(tmp_path / "nowhere").prepare_data()
    (tmp_path / "manifests.csv").write_text("path,text\n")
    with pytest.raises(UserError, match=r"has no manifest\.csv .* Did you mean 'manifests\.csv'"):
        AudioFolder(tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_speakers": ["bem"]}, "test_speakers: 'bem' .* Did you mean 'ben'"),
        ({"texts": ["thre"]}, "texts: 'thre' .* Did you mean 'three'"),
        ({"held_out_texts": ["nine"]}, "held_out_texts: 'nine' does not occur"),
        ({"test_speakers": SPEAKERS}, "no recordings left for 'train'"),
    ],
)
def test_a_speaker_or_text_that_does_not_occur_is_named(folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(folder, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_fraction": 1.5}, "val_fraction must lie between 0 and 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluate_only": True, "test_speakers": ["ann"]}, "nothing to train on"),
        ({"mix": L.LightningDataModule()}, "mix needs"),
        ({"mix": AudioFolder("y", negatives_per_clip=3), "negatives_per_clip": 2}, "is 2, that of mix 3"),
    ],
)
def test_impossible_arguments_are_refused_at_construction(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AudioFolder("x", **arguments)


def test_negatives_are_as_many_as_those_of_the_mixed_in_data() -> None:
    assert AudioFolder("x").negatives_per_clip == 0
    assert AudioFolder("x", mix=AudioFolder("y", negatives_per_clip=3)).negatives_per_clip == 3


def test_negatives_never_sound_like_the_clip() -> None:
    negatives = NegativeTexts(["two", "too", "one"], Pronouncer())
    rng = np.random.default_rng(0)
    assert {said.spelling[0] for said in negatives.draw("two", 50, rng)} == {"one"}
    near = near_words(["two"], 3, among=["shoe", "to", "true", "do"], cached=False)
    drawn = NegativeTexts(["two", "one"], Pronouncer(), near, never=["shoe"]).draw("two", 60, rng)
    assert {said.spelling[0] for said in drawn} == {"one", "do", "true"}
    with pytest.raises(UserError, match="sound alike"):
        NegativeTexts(["two", "too"], Pronouncer()).draw("two", 1, rng)
    with pytest.raises(UserError, match="two texts or more"):
        NegativeTexts(["two"], Pronouncer())


def test_joined_batches_keep_every_row_and_pad_the_shorter() -> None:
    a = {"audio": torch.ones(1, 3), "words": torch.tensor([[0, 1]]), "index": torch.tensor([4]), "text": ["a"]}
    b = {
        "audio": torch.ones(2, 5),
        "words": torch.tensor([[0], [0]]),
        "index": torch.tensor([0, 1]),
        "text": ["b", "c"],
    }
    joined = join_batches(a, b, offset=10)
    assert joined["audio"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1] * 5]
    assert joined["words"].tolist() == [[0, 1], [0, -1], [0, -1]]
    assert joined["index"].tolist() == [4, 10, 11]
    assert joined["text"] == ["a", "b", "c"]


def test_half_of_each_batch_comes_from_the_mixed_in_data(folder: Path, tmp_path: Path) -> None:
    old = AudioFolder(write_folder(tmp_path / "old", ["cat", "dog"], ["x", "y", "z"], takes=1), batch_size=64)
    module = ready(folder, mix=old, test_speakers=["ann"], val_fraction=0.2, mix_share=0.5)
    loader = module.train_dataloader()
    batches = list(loader)
    own = len(module.split["train"])
    assert len(batches) == len(loader) == -(-own // 4)
    for batch in batches[:-1]:
        assert sum(text in ("cat", "dog") for text in batch["text"]) == min(4, len(old.split["train"]))
        assert len(batch["audio"]) == len(batch["text"]) == len(batch["phones"])
    seen = torch.cat([b["index"][[t not in ("cat", "dog") for t in b["text"]]] for b in batches])
    assert sorted(seen.tolist()) == list(range(own))
    added = torch.cat([b["index"][[t in ("cat", "dog") for t in b["text"]]] for b in batches])
    assert int(added.min()) >= own


class Probe(L.LightningModule):
    """Notes the texts that a training run sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[str]] = []

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        self.seen.append(batch["text"])
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_lightning_run_reshuffles_every_epoch(folder: Path, tmp_path: Path, mixed: bool) -> None:
    old = AudioFolder(write_folder(tmp_path / "old", ["cat", "dog"], ["x", "y", "z"])) if mixed else None
    probe, module = Probe(), AudioFolder(folder, batch_size=8, mix=old, test_speakers=["ann"])
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(probe, datamodule=module)
    half = len(probe.seen) // 2
    assert probe.seen[:half] != probe.seen[half:]
    again = module.train_dataloader()  # a fresh loader gives the second epoch straight away: resuming needs no replay
    again.sampler.set_epoch(1) if mixed else again.batch_sampler.set_epoch(1)
    assert [batch["text"] for batch in again] == probe.seen[half:]


@pytest.mark.real_data
def test_spoken_digits_split_by_speaker(real_data: Path) -> None:
    module = ready(real_data / "spoken_digits", texts=["one", "seven"], test_speakers=["theo", "george", "lucas"])
    counts = module.summary()["counts"]
    assert counts["test"] == 300
    assert counts["train"] + counts["val"] == 300
    batch = next(iter(module.train_dataloader()))
    assert batch["audio"].abs().amax() <= 1


@pytest.mark.real_data
def test_digits_and_wake_words_pooled_as_the_recipe_for_people_has_them(real_data: Path) -> None:
    """Digits of unseen speakers are the main test; wake words, whose speakers nobody noted, are tested apart."""
    folders = [str(real_data / name) for name in ("spoken_digits", "wake_words")]
    module = AudioFolder(folders, held_out_texts=["three", "seven", "nine"], test_fraction=0.34)
    with pytest.warns(UserWarning, match="753 recordings name no speaker"):
        module.setup()
    assert module.test_names == ["", "unseen_words", "unknown_speakers"]
    assert (len(names(module, "test")), len(names(module, "val")), len(names(module, "train"))) == (2, 1, 3)
    assert names(module, "test unseen_words", "text") == {"three", "seven", "nine"}
    assert names(module, "test unknown_speakers", "text") == {"jarvis", "smart mirror"}
    assert not names(module, "train", "text") & {"three", "seven", "nine", "jarvis", "smart mirror"}
    assert module.summary()["overlap"]["speakers"] == 0
