"""What can be known is told before any data is touched and any run folder is made, however many steps come first."""

import shlex
import tempfile
from pathlib import Path

import mistakes
import pytest
from lightsleeper.cli import main
from mistakes import ENCODER, Case, both, manifest, overwrite, recordings, without_package
from tiny_runs import prepare

DSP = "run kws_dsp --trainer.accelerator=cpu"
TUNE = "run kws_finetune --data.path=recordings"
MIXED = "--data.mix={class_path: SpokenPhrases, init_args: {negatives_per_clip: 0}}"
MODEL = [
    Case("a size behind a step", f"{DSP} --model.dim=-3", ("kws_dsp.yaml:8", "model", "dim must be 1 or more", "-3")),
    Case(
        "a token that the text encoder does not give",
        f"{DSP} --model.token=phone --model.text_encoder=distilbert-base-uncased",
        ("token: phone", "text_encoder: phones"),
    ),
    Case("a baseline to export", f"{DSP} --model.partition=equal", ("model", "partition: dsp", "'equal'")),
    Case(
        "a baseline to export that needs no step",
        f"{DSP} --requires=null --model.encoder='{ENCODER}' --model.partition=random",
        ("model", "partition: dsp", "'random'"),
    ),
    Case(
        "a step of another family",
        f"{DSP} --requires.encoder=kws_cmcd",
        ("encoder", "${requires.encoder}", "KeywordCMCD", "PhonemeCTC"),
    ),
    Case(
        "a step that finalizes nothing",
        f"{DSP} --requires.encoder.set.run.stages=[fit]",
        ("encoder", "no finished model", "${requires.encoder}"),
    ),
    Case(
        "a start from other sizes, two steps deep",
        f"{TUNE} --requires.base.set.model.dim=96",
        ("kws_finetune.yaml:8", "init_from", "${requires.base}", "96"),
    ),
    Case(
        "a baseline to export in a step",
        f"{TUNE} --requires.base.set.model.partition=equal",
        ("kws_dsp.yaml:8", "partition: dsp"),
    ),
    Case(
        "a format of another library's networks",
        f"{DSP} --run.formats=[onnx,transformers]",
        ("run.formats", "transformers", "KeywordDSP"),
    ),
    Case(
        "an unknown size in a mapping",
        f"{DSP} --requires=null '--model.encoder={{dmi: 3}}'",
        ("encoder", "'dmi'"),
    ),
]
DATA = [
    Case(
        "a wake word of data without a phrase",
        "run wakeword_repcnn '--data={class_path: AudioFolder, init_args: {path: recordings}}'",
        ("data", "WakeWordCNN detects one phrase", "AudioFolder", "WakeWords"),
        recordings(),
    ),
    Case(
        "streams in chunks that are no whole slides",
        "run word_spotter --model.slide_ms=280",
        ("data", "chunks of 9.6 s", "280 ms"),
    ),
    Case(
        "words that are not those of the data",
        "run words_repcnn --data.words=[up,down]",
        ("data", "model.words (12)", "(2)", "they have besides backward, forward"),
    ),
    Case("no synthesiser", "run kws_cmcd", ("data", "espeak-ng", "[demo]"), without_package("espeakng_loader")),
    Case("no synthesiser for a step", TUNE, ("kws_encoder.yaml", "espeak-ng"), without_package("espeakng_loader")),
    Case(
        "no synthesiser for what is mixed in",
        f"run own.yaml '{MIXED}'",
        ("data", "espeak-ng"),
        both(recordings(), without_package("espeakng_loader")),
    ),
    Case("no word list", "run kws_cmcd", ("data", "common words", "[demo]"), without_package("wordfreq")),
    Case("no room for the corpus", "run kws_cmcd", ("data", "GB", "LIGHTSLEEPER_CACHE"), mistakes.small_disk),
    Case("no folder of recordings", "run own.yaml --data.path=recordins", ("own.yaml:4", "recordins"), recordings()),
    Case(
        "no manifest",
        "run own.yaml",
        ("own.yaml:4", "manifest.csv"),
        recordings(lambda folder: (folder / "manifest.csv").unlink()),
    ),
    Case("a manifest without texts", "run own.yaml", ("'text'", "path,speaker"), manifest("path,speaker\na.wav,x\n")),
    Case(
        "a damaged manifest",
        "run own.yaml",
        ("manifest.csv", "UTF-8"),
        recordings(overwrite("manifest.csv", b"\xff\xfe\x00path")),
    ),
    Case("a text that cannot be said", "run own.yaml", ("line 2", "2026"), manifest("path,text\na.wav,2026\n")),
    Case("an unknown speaker", "run own.yaml --data.test_speakers=[anne]", ("'anne'", "'anna'"), recordings()),
    Case("one text only", "run own.yaml --data.texts=[stop]", ("data", "'stop'"), recordings()),
    Case(
        "a recording that is gone",
        "run own.yaml",
        ("1 of 2", "gone.wav: does not exist", "on_bad_file"),
        manifest("path,text\ngone.wav,stop\nanna/stop_0.wav,go\n"),
    ),
    Case(
        "LibriSpeech that is not there",
        "run kws_dsp recipes/overlays/libriphrase.yaml",
        ("libriphrase.yaml", "data", "LibriSpeech"),
    ),
]
MACHINE = [
    Case(
        "a cache that is a file",
        "run own.yaml",
        ("cache", "LIGHTSLEEPER_CACHE"),
        both(recordings(), mistakes.file("cache")),
    ),
]
TABLE = [("model", MODEL), ("data", DATA), ("machine", MACHINE)]
CASES = [pytest.param(case, id=f"{part}: {case.says}") for part, cases in TABLE for case in cases]


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    monkeypatch.setattr("lightsleeper.data.corpus.build", mistakes.no_corpus)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if case.world is not None:
        case.world(monkeypatch)
    code = main(shlex.split(case.line))
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.err.startswith("error: "), printed.err
    assert len(printed.err.splitlines()) == 1, printed.err
    for name in case.names:
        assert name in printed.err, printed.err
    assert tempfile.gettempdir() not in printed.err
    assert not list(Path().glob("runs/*/*"))
    assert not list(Path("temporary").iterdir())


@pytest.mark.parametrize("recipe", ["kws_finetune", "kws_dsp recipes/overlays/libriphrase.yaml"])
def test_a_recipe_is_valid_without_its_data(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    without_package("espeakng_loader")(monkeypatch)
    assert main(["validate", *recipe.split()]) == 0, capsys.readouterr().err
