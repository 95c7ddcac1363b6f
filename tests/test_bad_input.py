"""What a user gets for bad input: one clear answer that starts with `error:`, exit code 2, never a traceback.

Signals, kills and disks that fill up during a run are in `test_resume.py` and `test_experiment.py`.
"""

import shlex
from pathlib import Path

import mistakes
import pytest
import torch
from lightsleeper.cli import main
from mistakes import (
    MATCHER,
    Case,
    both,
    change_record,
    cut,
    damaged_corpus,
    file,
    finished,
    interrupted,
    manifest,
    matcher,
    overwrite,
    recipe,
    recordings,
    sounds,
    without_package,
)
from tiny_runs import FAST, prepare

SMALL = (
    "--data.train_phrases=96 --data.vocabulary=500 --data.max_words=2 --data.episodes=4 --data.validation_episodes=2"
)
DSP = "run kws_dsp --trainer.accelerator=cpu"
FEW_PHRASES = "data build kws_dsp recipes/overlays/tiny.yaml"
RECIPE = [
    Case("a misspelt section", "run tiny.yaml", ("tiny.yaml:4", "'modle'", "'model'"), recipe("model:", "modle:")),
    Case("a misspelt argument", "run tiny.yaml", ("tiny.yaml:4", "'widht'", "'width'"), recipe("width", "widht")),
    Case("a misspelt trainer key", "run tiny.yaml", ("'max_epoch'", "'max_epochs'"), recipe("max_epochs", "max_epoch")),
    Case("a misspelt class", f"{DSP} --model.class_path=KeywordDPS", ("'KeywordDPS'", "'KeywordDSP'")),
    Case(
        "a misspelt callback class",
        "run tiny.yaml --callbacks.stop=EarlyStoping",
        ("'EarlyStoping'", "'EarlyStopping'"),
        recipe(),
    ),
    Case("a class of no module", "run tiny.yaml --model.class_path=nowhere.Net", ("nowhere",), recipe()),
    Case("text where a number belongs", "run tiny.yaml --model.width=many", ("width", "'many'", "int"), recipe()),
    Case(
        "a fraction where a count belongs",
        "run tiny.yaml --trainer.max_epochs=2.5",
        ("trainer.max_epochs", "2.5"),
        recipe(),
    ),
    Case(
        "a list where a mapping belongs",
        "run tiny.yaml",
        ("trainer", "mapping"),
        recipe("{max_epochs: 4, log_every_n_steps: 1, accelerator: cpu}", "[1]"),
    ),
    Case("a negative seed", "run tiny.yaml --seed_everything=-1", ("seed_everything", "-1"), recipe()),
    Case("a misspelt stage", "run tiny.yaml --run.stages=[fit,exprot]", ("run.stages", "exprot", "export"), recipe()),
    Case("stages out of order", "run tiny.yaml --run.stages=[finalize,fit]", ("stages", "order"), recipe()),
    Case("an export of nothing", "run tiny.yaml --run.stages=[fit,export]", ("export needs finalize",), recipe()),
    Case("a misspelt mode", "run tiny.yaml --run.mode=mx", ("run.mode", "mx", "max"), recipe()),
    Case(
        "YAML syntax",
        "run tiny.yaml",
        ("tiny.yaml:5", "YAML"),
        recipe("init_args: {width: 8}}", "init_args: {width: 8}"),
    ),
    Case("a tab in YAML", "run tiny.yaml", ("tiny.yaml:1", "YAML"), recipe(extra="\tx: 1\n")),
    Case("a duplicate key", "run tiny.yaml", ("tiny.yaml:1", "duplicate key 'model'"), recipe(extra="model: {}\n")),
    Case("code in YAML", "run tiny.yaml", ("tag", "python"), recipe("{width: 8}", "!!python/object:os.system {}")),
    Case(
        "a recipe that contains itself", "run tiny.yaml", ("contains itself",), recipe("{width: 8}", "&a {width: *a}")
    ),
    Case("a missing recipe", "run kws_dps.yaml", ("'kws_dps.yaml'", "'kws_dsp'")),
    Case("a missing overlay", "run kws_dsp recipes/overlays/tinny.yaml", ("tinny.yaml", "tiny")),
    Case("an empty recipe", "run empty.yaml", ("empty.yaml", "nothing"), file("empty.yaml")),
    Case("a recipe that is a list", "run list.yaml", ("list.yaml", "a list"), file("list.yaml", "- 1\n")),
    Case("a recipe that is no text", "run image.yaml", ("image.yaml", "UTF-8"), file("image.yaml", b"\x89PNG\xff")),
    Case("a folder without a recipe", "run folder", ("'folder'", "recipe.yaml"), file("folder/x")),
    Case(
        "a recipe without a model",
        "run tiny.yaml",
        ("model",),
        recipe("model: {class_path: tiny_family.TinyFamily, init_args: {width: 8}}", ""),
    ),
    Case(
        "a data module for a model",
        "run tiny.yaml --model.class_path=tiny_family.TinyData",
        ("model", "TinyData"),
        recipe(),
    ),
    Case(
        "a callback that is none",
        "run tiny.yaml --callbacks.x=torch.nn.Linear",
        ("callbacks.x", "Linear", "Callback"),
        recipe(),
    ),
    Case("a callback that is a number", "run tiny.yaml --callbacks.count=7", ("callbacks.count", "7"), recipe()),
    Case("a callback the recipe lacks", "run tiny.yaml --callbacks.cuont=null", ("cuont", "'count'"), recipe()),
    Case("a trainer argument of ours", "run tiny.yaml --trainer.logger=true", ("trainer.logger", "tracking"), recipe()),
    Case("no such accelerator", "run tiny.yaml --trainer.accelerator=gpx", ("gpx", "'gpu'"), recipe()),
    Case("a GPU that is not there", "run tiny.yaml --trainer.accelerator=gpu", ("trainer",), recipe()),
    Case(
        "no such precision", "run tiny.yaml --trainer.precision=12-mixed", ("trainer.precision", "12-mixed"), recipe()
    ),
    Case("a negative number of epochs", "run tiny.yaml --trainer.max_epochs=-5", ("max_epochs", "-5"), recipe()),
    Case(
        "a negative number of batches",
        "run tiny.yaml --trainer.limit_train_batches=-3",
        ("limit_train_batches", "-3"),
        recipe(),
    ),
    Case("no devices", "run tiny.yaml --trainer.devices=0", ("devices",), recipe()),
    Case("heads that do not divide the width", "validate kws_encoder --model.heads=5", ("model", "144", "5")),
    Case("a width of zero", "validate kws_encoder --model.dim=0", ("model", "dim", "0")),
    Case("a negative size", "validate kws_encoder --model.blocks=-1", ("model", "blocks", "-1")),
    Case("a width beyond any memory", "validate kws_encoder --model.dim=100000000", ("model", "memory")),
    Case("an even kernel", "validate kws_encoder --model.kernel=4", ("kernel", "4")),
    Case(
        "a step's recipe that does not exist",
        "run tiny.yaml",
        ("requires.encoder", "'kws_encodr'", "'kws_encoder'"),
        recipe(extra="requires: {encoder: kws_encodr}\n"),
    ),
    Case(
        "steps that require each other",
        "run a.yaml",
        ("circle", "a -> b -> a"),
        both(file("a.yaml", "requires: {x: b}\nmodel: {}\n"), file("b.yaml", "requires: {x: a}\n")),
    ),
    Case("a step that is not required", f"{DSP} --model.encoder=${{requires.encodr}}", ("'encodr'", "'encoder'")),
    Case("a mistake inside a required recipe", f"{DSP} --requires.encoder.set.model.dmi=64", ("dmi", "'dim'")),
]
COMMAND = [
    Case("no recipe", "run", ("no recipe", "lightning recipes")),
    Case("an unknown command", "vaildate kws_dsp", ("'vaildate'", "'validate'")),
    Case("an unknown option", "run kws_dsp --reusme=last", ("'--reusme'", "'--resume'")),
    Case("an unknown section on the line", "run kws_dsp --trainr.max_epochs=3", ("'trainr'", "'trainer'")),
    Case("an override without a value", "run kws_dsp --trainer.max_epochs", ("--trainer.max_epochs", "no value")),
    Case(
        "an override below a plain value",
        "run kws_dsp --trainer.max_epochs.x=3",
        ("trainer.max_epochs", "not a mapping"),
    ),
    Case("an override that is no YAML", "run kws_dsp --model.compare=[a", ("--model.compare", "YAML")),
    Case("a key to explain that is not there", "explain kws_dsp model.dmi", ("'model.dmi'", "'model.dim'")),
    Case("an unknown action", "runs claen", ("'claen'", "'clean'")),
    Case("an age without a unit", "runs clean --older-than 7", ("7", "30d")),
    Case("a count that is none", "data listen kws_dsp --out x --count 0", ("--count", "0")),
]
DATA = [
    Case(
        "a folder of recordings that is missing",
        "data build own.yaml --data.path=recordins",
        ("recordins", "does not exist"),
        recordings(),
    ),
    Case(
        "no manifest",
        "data build own.yaml",
        ("recordings", "manifest.csv"),
        recordings(lambda folder: (folder / "manifest.csv").unlink()),
    ),
    Case(
        "a manifest of another name",
        "data build own.yaml --data.manifest=manifst.csv",
        ("manifst.csv", "'manifest.csv'"),
        recordings(),
    ),
    Case(
        "a manifest without the text column",
        "data build own.yaml",
        ("'text'", "path,speaker"),
        manifest("path,speaker\na.wav,anna\n"),
    ),
    Case(
        "a manifest that names a missing file",
        "data build own.yaml",
        ("gone.wav", "does not exist"),
        manifest("path,text\ngone.wav,stop\n"),
    ),
    Case("an empty manifest", "data build own.yaml", ("manifest.csv", "''"), manifest("")),
    Case(
        "a manifest of a header alone",
        "data build own.yaml",
        ("manifest.csv", "no recordings"),
        manifest("path,text\n"),
    ),
    Case(
        "a manifest that is no text",
        "data build own.yaml",
        ("manifest.csv", "UTF-8"),
        recordings(overwrite("manifest.csv", b"\xff\xfe\x00path")),
    ),
    Case("a line without a path", "data build own.yaml", ("line 2", "no path"), manifest("path,text\n,stop\n")),
    Case("a text that cannot be said", "data build own.yaml", ("line 2", "2026"), manifest("path,text\na.wav,2026\n")),
    Case("an unknown speaker", "data build own.yaml --data.test_speakers=[anne]", ("'anne'", "'anna'"), recordings()),
    Case("an unknown text", "data build own.yaml --data.held_out_texts=[stopp]", ("'stopp'", "'stop'"), recordings()),
    Case("one text only", "data inspect own.yaml --data.texts=[stop]", ("stop",), recordings()),
    Case(
        "one speaker and one clip",
        "data inspect own.yaml",
        ("recordings",),
        manifest("path,text,speaker\nanna/stop_0.wav,stop,anna\n"),
    ),
    Case(
        "a share out of range", "data build own.yaml --data.test_fraction=1.5", ("test_fraction", "1.5"), recordings()
    ),
    Case(
        "a recording that is no audio",
        "data build own.yaml",
        ("stop_0.wav", "no audio"),
        recordings(overwrite("anna/stop_0.wav", "text")),
    ),
    Case(
        "recordings to train on that are for tests",
        "run own.yaml --data.evaluate_only=true",
        ("evaluate_only",),
        recordings(),
    ),
    Case("a corpus of no phrases", "data build kws_dsp --data.train_phrases=0", ("train_phrases", "0")),
    Case("more words than there are", "data build kws_dsp --data.vocabulary=1000000", ("1000000", "words")),
    Case(
        "voices that leave none to train",
        "data build kws_dsp --data.held_out_voices=85",
        ("held_out_voices", "85", "89"),
    ),
    Case(
        "no synthesiser",
        f"data build kws_dsp {SMALL}",
        ("espeak-ng", "[demo]"),
        both(mistakes.real_corpus, without_package("espeakng_loader")),
    ),
    Case("no word list", "data build kws_dsp --data.vocabulary=777", ("demo",), without_package("wordfreq")),
    Case("a damaged corpus in the cache", FEW_PHRASES, ("damaged", "Delete"), damaged_corpus()),
    Case("a damaged list of a corpus in the cache", FEW_PHRASES, ("damaged", "Delete"), damaged_corpus("{")),
    Case("a cache that is a file", "data build kws_dsp", ("cache", "LIGHTSLEEPER_CACHE"), file("cache", "")),
    Case("LibriSpeech that is not there", "data build kws_dsp recipes/overlays/libriphrase.yaml", ("LibriSpeech",)),
]
RUNS = [
    Case(
        "an unknown run", "show 20260101-000000-0001", ("'20260101-000000-0001'", "'20260101-000000-0000'"), finished()
    ),
    Case("no run at all", "show last", ("no last run", "runs")),
    Case(
        "the start of several runs", "show 2026", ("2 runs",), both(finished(), finished(run_id="20260101-000000-0002"))
    ),
    Case("one run to compare", "runs compare last", ("two runs", "1"), finished()),
    Case("to resume an unknown run", "run --resume 1999", ("'1999'",), finished()),
    Case("to resume a finished run", "run --resume last", ("finished", "0000"), finished()),
    Case(
        "to resume with a changed recipe",
        f"run tiny.yaml {FAST} --model.width=9 --resume last",
        ("changed recipe", "model.width"),
        interrupted(),
    ),
    Case(
        "a damaged checkpoint",
        "run --resume last",
        ("last.ckpt", "damaged"),
        interrupted(overwrite("checkpoints/last.ckpt", "x")),
    ),
    Case("half a checkpoint", "run --resume last", ("last.ckpt", "damaged"), interrupted(cut("checkpoints/last.ckpt"))),
    Case(
        "a checkpoint of something else",
        "run --resume last",
        ("last.ckpt",),
        interrupted(lambda folder: torch.save({"a": 1}, folder / "checkpoints/last.ckpt")),
    ),
    Case(
        "a run without its recipe",
        "run --resume last",
        ("recipe.yaml",),
        interrupted(lambda folder: (folder / "recipe.yaml").unlink()),
    ),
    Case(
        "a damaged record",
        "show last --runs-dir runs/tiny/20260101-000000-0000",
        ("no last run",),
        finished(cut("record.json")),
    ),
    Case(
        "half a record",
        "show runs/tiny/20260101-000000-0000",
        ("record.json", "cannot be read"),
        finished(cut("record.json")),
    ),
    Case(
        "a record of a newer version",
        "show runs/tiny/20260101-000000-0000",
        ("schema 99", "newer"),
        finished(lambda folder: change_record(folder, schema=99)),
    ),
    Case(
        "a record with a wrong type",
        "show runs/tiny/20260101-000000-0000",
        ("record.json", "metrics"),
        finished(lambda folder: change_record(folder, metrics=[1])),
    ),
    Case(
        "a record that lacks fields",
        "show runs/tiny/20260101-000000-0000",
        ("record.json", "family"),
        finished(overwrite("record.json", '{"schema": 1}')),
    ),
    Case("damaged weights", "export last", ("model.safetensors", "sha256"), finished(cut("export/model.safetensors"))),
    Case("a damaged description", "export last", ("model.json", "cannot be read"), finished(cut("export/model.json"))),
    Case(
        "a description of an unknown class",
        "export last",
        ("nowhere.Net",),
        finished(overwrite("export/model.json", '{"class_path": "nowhere.Net", "init_args": {}}')),
    ),
    Case(
        "a description with wrong arguments",
        "export last",
        ("model.json", "widht"),
        finished(overwrite("export/model.json", '{"class_path": "tiny_family.TinyFamily", "init_args": {"widht": 8}}')),
    ),
    Case(
        "a description with arguments of a wrong kind",
        "export last",
        ("model.json",),
        finished(overwrite("export/model.json", '{"class_path": "tiny_family.TinyFamily", "init_args": 3}')),
    ),
    Case(
        "to export an unfinished run",
        "export last",
        ("finalize",),
        finished(lambda folder: (folder / "export/model.json").unlink()),
    ),
    Case("to export to an unknown format", "export last --formats onxn", ("'onxn'", "onnx"), finished()),
    Case(
        "an encoder of another family",
        "run kws_dsp --requires=null --model.encoder=runs/tiny/20260101-000000-0000 --trainer.accelerator=cpu",
        ("encoder", "TinyFamily", "PhonemeCTC"),
        finished(),
    ),
    Case(
        "an encoder that is not there",
        "run kws_dsp --requires=null --model.encoder=nowhere --trainer.accelerator=cpu",
        ("encoder", "'nowhere'"),
    ),
]
LISTEN = "detect last --keyword light"
AUDIO = [
    Case("a missing recording", f"{LISTEN} gone.wav", ("gone.wav", "does not exist"), sounds),
    Case("an empty file", f"{LISTEN} empty.wav", ("empty.wav", "is empty"), sounds),
    Case("a text file named .wav", f"{LISTEN} text.wav", ("text.wav", "no audio"), sounds),
    Case("a folder named .wav", f"{LISTEN} folder.wav", ("folder.wav", "is a folder"), sounds),
    Case("half a WAV file", f"{LISTEN} cut.wav", ("cut.wav", "cut off"), sounds),
    Case("a WAV header alone", f"{LISTEN} header.wav", ("header.wav", "damaged"), sounds),
    Case("a recording of no samples", f"{LISTEN} nothing.wav", ("nothing.wav", "is empty"), sounds),
    Case("a recording of six milliseconds", f"{LISTEN} instant.wav", ("instant.wav", "6 ms"), sounds),
    Case("a recording with values that are no numbers", f"{LISTEN} nan.wav", ("nan.wav", "not finite"), sounds),
    Case("a bad recording among good ones", f"{LISTEN} good.wav cut.wav", ("cut.wav",), sounds),
    Case("no recording", LISTEN, ("--microphone",), sounds),
    Case("a picture in a folder that is a file", f"{LISTEN} good.wav --plot empty.wav/x.png", ("empty.wav",), sounds),
    Case(
        "a model that is no model",
        "detect text.onnx --keyword light good.wav",
        ("text.onnx",),
        both(sounds, file("text.onnx", "x")),
    ),
    Case(
        "half a model",
        f"detect runs/tiny/{MATCHER}/export/model.onnx --keyword light good.wav",
        ("model.onnx",),
        matcher(cut("model.onnx")),
    ),
    Case("data to evaluate on that is missing", "evaluate last --data nowhere", ("'nowhere'",), sounds),
    Case(
        "data to evaluate on without a manifest",
        "evaluate last --data folder.wav",
        ("folder.wav", "manifest.csv"),
        sounds,
    ),
]
KEYWORD = [
    Case("an empty keyword", "detect last --keyword '' good.wav", ("''", "type a phrase"), sounds),
    Case("a keyword of signs", "detect last --keyword '!?' good.wav", ("'!?'",), sounds),
    Case("a keyword of digits", "detect last --keyword 'call 911' good.wav", ("'911'", "nine one one"), sounds),
    Case("a keyword of another script", "detect last --keyword свет good.wav", ("свет", "a-z"), sounds),
    Case("an unknown phone", f"{LISTEN} --pronounce 'L AY Q' good.wav", ("'Q'", "ARPAbet"), sounds),
    Case("a pronunciation of no word", f"{LISTEN} --pronounce 'lihgt=L AY T' good.wav", ("'lihgt'", "'light'"), sounds),
    Case("an empty pronunciation", f"{LISTEN} --pronounce 'light=' good.wav", ("'light'", "empty"), sounds),
    Case(
        "a keyword longer than the model",
        "detect last --keyword 'internationalization of everything' good.wav",
        ("too long", "16"),
        sounds,
    ),
]
MACHINE = [
    Case("a runs folder that is a file", "run tiny.yaml", ("runs", "--runs-dir"), both(recipe(), file("runs"))),
    Case(
        "a runs folder below a file",
        "run tiny.yaml --runs-dir file/runs",
        ("file/runs", "--runs-dir"),
        both(recipe(), file("file")),
    ),
    Case(
        "a disk that is full at the start",
        f"run tiny.yaml {FAST}",
        ("No space left",),
        both(recipe(), mistakes.full_disk),
    ),
    Case("a disk with too little space", "run tiny.yaml", ("1 MB free", "300 MB"), both(recipe(), mistakes.small_disk)),
    Case(
        "a disk with too little space for a corpus",
        f"data build kws_dsp {SMALL}",
        ("GB", "LIGHTSLEEPER_CACHE"),
        both(mistakes.real_corpus, mistakes.small_disk),
    ),
    Case(
        "an export to a full disk",
        "export last --parity-inputs 1",
        ("No space left", "model.onnx"),
        both(finished(), mistakes.full_disk),
    ),
    Case(
        "clips to a full cache",
        "data build own.yaml",
        ("No space left", "cache"),
        both(recordings(), mistakes.full_cache),
    ),
    Case("an export to a file", "export last --out tiny.yaml", ("tiny.yaml",), finished()),
    Case("W&B online without a key", "run tiny.yaml --tracking.mode=online", ("no W&B key", "auto"), recipe()),
    Case(
        "W&B online without a network",
        f"run tiny.yaml {FAST} --tracking.mode=online",
        ("W&B", "auto"),
        both(recipe(), mistakes.wandb_key),
    ),
    Case(
        "a text encoder from a hub without a network",
        f"run kws_dsp --requires=null --model.encoder='{mistakes.ENCODER}' --model.token=word "
        "--model.text_encoder=distilbert-base-uncased --trainer.accelerator=cpu",
        ("'distilbert-base-uncased'", "phones"),
        mistakes.no_hub,
    ),
    Case(
        "a package for the export that is missing",
        "run tiny.yaml",
        ("onnxscript", "pip install"),
        both(recipe(), without_package("onnxscript")),
    ),
]
TABLE = [
    ("recipe", RECIPE),
    ("command", COMMAND),
    ("data", DATA),
    ("run", RUNS),
    ("audio", AUDIO),
    ("keyword", KEYWORD),
    ("machine", MACHINE),
]
CASES = [pytest.param(case, id=f"{part}: {case.says}") for part, cases in TABLE for case in cases]


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    monkeypatch.setattr("lightsleeper.data.corpus.build", mistakes.no_corpus)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_one_clear_answer(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if "GPU" in case.says and torch.cuda.is_available():
        pytest.skip("there is one")
    if case.world is not None:
        case.world(monkeypatch)
        capsys.readouterr()
    code = main(shlex.split(case.line))
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.err.startswith("error: "), printed.err
    assert len(printed.err.splitlines()) <= 3, printed.err
    assert "Traceback" not in printed.out + printed.err
    for name in case.names:
        assert name in printed.err, printed.err
