"""What follows the fit: finalize, test, export, benchmark. Each stage starts from files of the one before.

A stage therefore gives the same result whether or not the process was killed and resumed in between.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import RichProgressBar
from lightsleeper_callbacks.base import Phase, compressions, prepare_in_order

from lightsleeper.data.module import asked
from lightsleeper.deploy import benchmark as benchmarks
from lightsleeper.deploy import content_latency, parity
from lightsleeper.deploy import export as exports
from lightsleeper.deploy import finalize as deliverables
from lightsleeper.deploy.runtime import OnnxModel
from lightsleeper.deploy.small import Streams
from lightsleeper.errors import UserError
from lightsleeper.files import write_atomic
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Family, names_of_sets
from lightsleeper.recipe.parsing import Parts, ordered
from lightsleeper.run_folder import CHECKPOINTS, DETAILS, EXPORT
from lightsleeper.stages.checkpoints import BEST, LAST, load_checkpoint
from lightsleeper.stages.console import Log
from lightsleeper.stages.precision import one_device, root_device
from lightsleeper.tracking.record import Record

SCORED_ROWS = 32  # test rows scored with the exported file too, one by one: a second or two
STATISTICS_BATCHES = 50  # for batch-norm statistics after a lossy step
Fields = dict[str, Any]  # of the run record

# Of the recipe's trainer settings, those of the test. What ships is float32, whatever precision it was trained in.
PLACE = ("accelerator", "limit_test_batches", "deterministic", "benchmark", "inference_mode")


def restore(parts: Parts, folder: Path) -> L.LightningModule:
    """The freshly built model with the best checkpoint's weights, prepared by its compression callbacks.

    Without `run.monitor` the last epoch is the best; without a fit the model is taken as it was built.
    """
    model = parts.model
    checkpoints = folder / CHECKPOINTS
    path = next((checkpoints / name for name in (BEST, LAST) if (checkpoints / name).exists()), None)
    if path is None:
        return model
    checkpoint = load_checkpoint(path)
    # What an initialisation would give, the checkpoint overwrites.
    everyone = compressions(ordered(parts.callbacks))
    prepare_in_order([callback for callback in everyone if callback.phase is not Phase.INITIALIZE], model)
    for callback in everyone:
        if state := checkpoint.get("callbacks", {}).get(callback.state_key):
            callback.load_state_dict(state)
    model.configure_model()
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    return model


def finalize(parts: Parts, folder: Path, record: Record) -> Fields:
    """Bake the compression in, calibrate on validation data, save `export/model.*`."""
    trained = restore(parts, folder)
    # The check stage has seen that it is one.
    training = partial(_training_batches, parts.data)
    model, report = deliverables.finalize(cast(Family, trained.eval()), parts.callbacks, training)
    device = root_device(parts.trainer_args)
    with torch.no_grad():
        model.to(device).rebuild(lambda: (move_data_to_device(batch, device) for batch in _training(parts.data)))
        threshold = model.calibrate(_batches(parts.data, device))
    model.to("cpu")
    meta = {"recipe": record.recipe, "run_id": record.run_id, "threshold": threshold}
    deliverables.save_model(model, folder / EXPORT, meta)
    return {"compression": report, "threshold": threshold, "context": model.context()}


def test(parts: Parts, folder: Path, record: Record, log: Log) -> Fields:
    """Measure the finalized model as it was saved, or the best checkpoint where nothing was finalized."""
    finalized = "finalize" in parts.run.stages
    model = deliverables.load_model(folder / EXPORT) if finalized else restore(parts, folder)
    trainer = L.Trainer(
        **{name: value for name, value in parts.trainer_args.items() if name in PLACE},
        devices=one_device(parts.trainer_args),  # a distributed sampler would repeat rows to fill its last batch
        logger=False,
        callbacks=[RichProgressBar(leave=False)] if log.console.is_terminal else None,
        enable_progress_bar=log.console.is_terminal,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    measured = tested(trainer, model, datamodule=parts.data)
    training = {name: curve for name, curve in record.curves.items() if name == "training"}  # the fit's
    if details := getattr(model, "details", None):
        write_atomic(folder / DETAILS, json.dumps(details) + "\n")
    return {
        "metrics": {name: value.to_dict() for name, value in measured.items()},
        "curves": {**getattr(model, "curves", {}), **training},
        "headline": [name for name in getattr(model, "headline", ()) if name in measured],
    }


def tested(trainer: L.Trainer, model: L.LightningModule, **data: Any) -> dict[str, Measurement]:
    """What a test of ``model`` finds: what it logs, and with intervals what it measures itself."""
    trainer.test(model, verbose=False, **data)
    plain = {name: Measurement(float(value)) for name, value in trainer.callback_metrics.items()}
    return {**plain, **getattr(model, "measured", {})}


def export(parts: Parts, folder: Path) -> Fields:
    """Write the files of `run.formats`, prove them equal, score some test rows with the headline graph."""
    model = deliverables.load_model(folder / EXPORT)
    streams = data_streams(parts.data) if exports.need_streams(parts.run.formats) else None
    artifacts = exports.export(model, folder / EXPORT, parts.run.formats, parts.run.parity_inputs, streams)
    if "transformers" in parts.run.formats:
        asked(parts.data, "save_tokenizer")(folder / EXPORT / exports.TRANSFORMERS)
    elif "packed" in parts.run.formats:
        asked(parts.data, "save_tokenizer")(folder / EXPORT / exports.TOKENIZER)
    for artifact in artifacts:
        artifact["path"] = f"{EXPORT}/{artifact['path']}"
    headline = next((artifact for artifact in artifacts if artifact["format"] == "onnx"), None)
    if headline and (compared := _compare_scores(model, parts, folder / headline["path"])):
        headline["parity"]["test_rows"] = compared
    return {"artifacts": artifacts, "size": benchmarks.size_of(model)}


def data_streams(data: L.LightningDataModule) -> Streams:
    """Validation and test streams of ``data``, rendered at each call."""

    def test_sets() -> dict[str, Any]:
        data.prepare_data()
        data.setup("test")
        loaders = _list(data.test_dataloader())
        return dict(zip(names_of_sets(data, len(loaders)), loaders, strict=True))

    return Streams(lambda: _batches(data, torch.device("cpu")), test_sets)


def benchmark(parts: Parts, folder: Path, record: Record, log: Log) -> Fields:
    """Time the exported files; weigh the model."""
    model = deliverables.load_model(folder / EXPORT)
    counts = parts.run.benchmark_threads
    heard = partial(_recordings, parts.data)
    artifacts, size = benchmarks.benchmark(
        model, folder / EXPORT, record.artifacts, counts, tell=log.say, recordings=heard
    )
    return {"artifacts": artifacts, "size": size}


def _recordings(data: L.LightningDataModule) -> dict[str, Any]:
    """Test audio by what it holds, where the data has streams that say so."""
    data.prepare_data()
    data.setup("test")
    first = _list(data.test_dataloader())[0]
    streams = getattr(getattr(first, "dataset", None), "streams", {})
    return content_latency.recordings({n: stream for n, stream in streams.items() if hasattr(stream, "content")})


def _compare_scores(model: Any, parts: Parts, path: Path) -> dict[str, Any] | None:
    """Largest difference of scores between model and exported file on the first test batch; None for other data."""
    parts.data.prepare_data()
    parts.data.setup("test")
    batch = next(iter(_list(parts.data.test_dataloader())[0]), None)
    if not isinstance(batch, dict) or not {"audio", "audio_lengths", "phones", "words"} <= batch.keys():
        return None
    rows = {key: value[:SCORED_ROWS] for key, value in batch.items()}
    with torch.inference_mode():
        return parity.compare_scores(model.score, OnnxModel(path).score, [rows])


def _training_batches(data: L.LightningDataModule) -> Iterator[Any]:
    """The first STATISTICS_BATCHES training batches, for batch-norm statistics."""
    yield from islice(_training(data), STATISTICS_BATCHES)


def _training(data: L.LightningDataModule) -> Iterator[Any]:
    data.prepare_data()
    data.setup("fit")
    for loader in _list(data.train_dataloader()):
        yield from loader


def _list(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


def _batches(data: L.LightningDataModule, device: torch.device) -> Iterator[Any]:
    data.prepare_data()
    data.setup("validate")
    for loader in _list(data.val_dataloader()):
        if not isinstance(loader, Iterable):
            raise UserError(f"{type(data).__name__}.val_dataloader() gives {type(loader).__name__}, no data loader.")
        for batch in loader:
            yield move_data_to_device(batch, device)
