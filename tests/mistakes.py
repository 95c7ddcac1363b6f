"""The world that the table of bad input plays in: files of every broken kind, runs in every broken state."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile
from data.recordings import write_folder, write_tone
from tiny_matcher import tiny_runs
from tiny_runs import FAST, uninterrupted, write

World = Callable[[pytest.MonkeyPatch], object]
MATCHER = "20260101-000000-abcd"  # the run of `tiny_runs`
ENCODER = "{n_mels: 20, dim: 8, blocks: 1, heads: 2, kernel: 3, expansion: 1}"
RECORDINGS = f"""
# Own recordings.
model: {{class_path: KeywordDSP, init_args: {{encoder: {ENCODER}}}}}
data: {{class_path: AudioFolder, init_args: {{path: recordings}}}}
trainer: {{max_epochs: 1, accelerator: cpu}}
tracking: {{mode: disabled}}
"""


@dataclass(frozen=True)
class Case:
    """One mistake: the command line, what its answer names, and the world it is made in."""

    says: str
    line: str
    names: tuple[str, ...]
    world: World | None = None


# --- recipes ---


def recipe(old: str = "", new: str = "", extra: str = "") -> World:
    """`tiny.yaml` with ``old`` replaced and top-level lines added."""

    def world(_: pytest.MonkeyPatch) -> None:
        path = write("tiny", extra)
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new) if old else text)

    return world


def file(name: str, content: str | bytes = "") -> World:
    def world(_: pytest.MonkeyPatch) -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return world


def both(*worlds: World) -> World:
    def world(monkeypatch: pytest.MonkeyPatch) -> None:
        for each in worlds:
            each(monkeypatch)

    return world


# --- recordings ---


def recordings(spoil: Callable[[Path], object] | None = None) -> World:
    """A folder of recordings and the recipe `own.yaml` that reads it, spoilt."""

    def world(_: pytest.MonkeyPatch) -> None:
        Path("own.yaml").write_text(RECORDINGS)
        folder = write_folder(Path("recordings"), ["stop", "turn on"], ["anna", "ben", "cleo"], takes=1)
        if spoil is not None:
            spoil(folder)

    return world


def manifest(text: str) -> World:
    return recordings(lambda folder: (folder / "manifest.csv").write_text(text))


def sounds(_: pytest.MonkeyPatch) -> None:
    """Audio files of every unusable kind, and `good.wav`."""
    write_tone(Path("good.wav"), 1.0, 440)
    write_tone(Path("short.wav"), 0.2, 440)
    Path("empty.wav").touch()
    Path("text.wav").write_text("this is no audio")
    Path("folder.wav").mkdir()
    whole = Path("good.wav").read_bytes()
    Path("cut.wav").write_bytes(whole[: len(whole) // 2])
    Path("header.wav").write_bytes(whole[:20])
    soundfile.write("nothing.wav", np.zeros(0), 16_000)
    soundfile.write("instant.wav", np.zeros(100), 16_000)
    wave = np.zeros(16_000, np.float32)
    wave[500] = np.nan
    soundfile.write("nan.wav", wave, 16_000, subtype="FLOAT")
    shutil.copytree(tiny_runs(), "runs")


# --- runs ---


def finished(spoil: Callable[[Path], object] | None = None, run_id: str = "20260101-000000-0000") -> World:
    """`runs/tiny/<run_id>`, finished, then spoilt."""

    def world(_: pytest.MonkeyPatch) -> None:
        write()
        folder = Path("runs/tiny", run_id)
        shutil.copytree(uninterrupted(FAST), folder)
        change_record(folder, run_id=run_id)
        if spoil is not None:
            spoil(folder)

    return world


def interrupted(spoil: Callable[[Path], object] | None = None) -> World:
    """The same run as if it had been stopped after its fit."""

    def spoiled(folder: Path) -> None:
        change_record(folder, status="interrupted", stages={"fit": "running"})
        if spoil is not None:
            spoil(folder)

    return finished(spoiled)


def change_record(folder: Path, **fields: Any) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, **fields}))


def overwrite(name: str, content: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    """The first half of a file, as an interrupted copy leaves it."""

    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return spoil


def matcher(spoil: Callable[[Path], object] | None = None) -> World:
    """A finished keyword matcher's run and `good.wav`."""

    def world(monkeypatch: pytest.MonkeyPatch) -> None:
        sounds(monkeypatch)
        if spoil is not None:
            spoil(Path("runs/tiny", MATCHER, "export"))

    return world


# --- the machine ---


def without_package(name: str) -> World:
    """An installation that lacks ``name``."""

    def world(monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        real = importlib.util.find_spec
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == name else real(n, *rest))

    return world


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flush to the disk finds no room."""

    def fsync(handle: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"total": 10**9, "used": 10**9 - 10**6, "free": 10**6})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1, which is read at import."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def real_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo `no_corpus`: the mistake shows while the corpus is built."""
    from lightsleeper.data.corpus_build import build

    monkeypatch.setattr("lightsleeper.data.corpus.build", build)


def damaged_corpus(manifest_text: str | None = None) -> World:
    """A corpus in the cache whose shard, or whose manifest, is damaged."""

    def build(folder: Path, *_: object) -> None:
        (folder / "train-000.arrow").write_bytes(b"no arrow")
        content = json.dumps({"key": "k", "sha256": "s", "shards": ["train-000.arrow"]})
        (folder / "corpus.json").write_text(content if manifest_text is None else manifest_text)

    return lambda monkeypatch: monkeypatch.setattr("lightsleeper.data.corpus.build", build)


def wandb_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A W&B key, and a server that does not answer."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("lightsleeper.tracking.weights_and_biases.INIT_TIMEOUT_S", 1.0)


def full_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has room for no clip."""

    def replace(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)


def no_corpus(*_: object) -> NoReturn:
    """Instead of minutes of synthesis, where a mistake was not noticed before it."""
    raise AssertionError("a corpus would be built")
