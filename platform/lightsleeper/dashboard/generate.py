"""Made-up run records that look like real ones: for tests, for measurements and to see the page without a week of runs.

Deterministic: the same count and seed give the same bytes. Three recipes, a step that one requires, sweeps over
context and sparsity, sparsity and bits, past and future frames, three seeds of each point, three machines; some runs
failed, were stopped or pruned, died or run.
"""

import json
import math
import random
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

from lightsleeper.files import write_atomic
from lightsleeper.run_folder import RECORD
from lightsleeper.tracking.record import Artifact, Latency, Measured, Record

SEEDS = (7, 8, 9)
# fingerprint -> share of the runs, slowness, processor, cores
MACHINES = {
    "53a408c0322d": (6, 1.0, "AMD EPYC", 2),
    "9c1e77ab0d42": (2, 2.6, "Cortex-A76", 4),
    "e01f5a6b3c88": (2, 0.55, "Apple M3", 8),
}
MONITORS = {
    "kws_dsp": ("val/auc_hard", "max"),
    "words_repcnn": ("val/macro_accuracy", "max"),
    "lm_edkm": ("val/bits_per_byte", "min"),
}
START = datetime(2026, 11, 1, tzinfo=UTC)
HOST = "elsewhere.example"

# study id -> (recipe, metric, goal, parameter -> values)
STUDIES: dict[str, tuple[str, str, str, dict[str, list[Any]]]] = {
    "kws_context_sparsity-20261103-0512-3fa9": (
        "kws_dsp",
        "val/auc_hard",
        "maximize",
        {"model.past_frames": [8, 16, 32, 64], "callbacks.prune.sparsity": [0.0, 0.5, 0.8, 0.9]},
    ),
    "kws_past_future-20261104-1002-77c1": (
        "kws_dsp",
        "val/eer_hard",
        "minimize",
        {"model.past_frames": [8, 16, 32, 64], "model.future_frames": [0, 2, 4, 8]},
    ),
    "words_sparsity_bits-20261105-2217-b05e": (
        "words_repcnn",
        "val/macro_accuracy",
        "maximize",
        {"callbacks.prune.sparsity": [0.0, 0.5, 0.75, 0.9], "callbacks.cluster.bits": [2, 3, 4, 8]},
    ),
    "lm_bits-20261106-0730-12aa": (
        "lm_edkm",
        "val/bits_per_byte",
        "minimize",
        {"callbacks.cluster.bits": [1, 2, 3, 4, 6, 8]},
    ),
}


def write(root: Path, count: int, seed: int = 0, points: int = 60) -> None:
    """``count`` records below ``root`` as `lightning run` would lay them out; curves of ``points`` points."""
    for content in records(count, seed, points):
        folder = root / content["recipe"] / content["run_id"]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RECORD, json.dumps(content, allow_nan=False))


def records(count: int, seed: int = 0, points: int = 60) -> Iterator[dict[str, Any]]:
    """``count`` records, oldest first; the content of `record.json` as JSON-able dictionaries."""
    draw = random.Random(seed)
    trials = [
        (study, dict(zip(parameters, values, strict=True)), chosen)
        for study, (_, _, _, parameters) in STUDIES.items()
        for values in _grid(list(parameters.values()))
        for chosen in SEEDS
    ]
    encoder = ""
    for index in range(count):
        started = START + timedelta(minutes=7 * index)
        run_id = f"{started:%Y%m%d-%H%M%S}-{draw.getrandbits(16):04x}"
        if index == 0:
            encoder = run_id
            yield vars(_encoder(run_id, started, draw))
            continue
        if index % 4 == 3:  # a run of its own, outside any sweep
            recipe = draw.choice(["kws_dsp", "words_repcnn", "lm_edkm"])
            study, parameters, chosen = "", _free(recipe, draw), draw.choice(SEEDS)
        else:
            study, parameters, chosen = trials[(index * 3 // 4) % len(trials)]
            recipe = STUDIES[study][0]
        record = _run(recipe, run_id, started, parameters, chosen, draw, points)
        if study:
            _, metric, goal, names = STUDIES[study]
            value = record.metrics[metric.replace("val/", "test/")]["value"]
            record.sweep = {
                "id": study,
                "name": study.partition("-")[0],
                "method": "grid",
                "metric": metric,
                "goal": goal,
                "trial": trials.index((study, parameters, chosen)),
                "attempt": 1,
                "parameters": {**parameters, "seed_everything": chosen},
                "value": None if value is None else value + draw.gauss(0, 0.002),
                "pruned": False,
            }
        if recipe == "kws_dsp":
            record.lineage = {"encoder": {"recipe": "kws_encoder", "run_id": encoder, "hash": "f1b04adfd8f04e6b"}}
        _ending(record, draw)
        yield vars(record)


def _grid(values: list[list[Any]]) -> list[tuple[Any, ...]]:
    return [()] if not values else [(first, *rest) for first in values[0] for rest in _grid(values[1:])]


def _free(recipe: str, draw: random.Random) -> dict[str, Any]:
    if recipe == "lm_edkm":
        return {"callbacks.cluster.bits": draw.choice([3, 4])}
    free: dict[str, Any] = {"callbacks.prune.sparsity": draw.choice([0.0, 0.8])}
    return {**free, "model.past_frames": draw.choice([24, 48])} if recipe == "kws_dsp" else free


def _run(
    recipe: str, run_id: str, started: datetime, parameters: dict[str, Any], seed: int, draw: random.Random, points: int
) -> Record:
    past = parameters.get("model.past_frames", 32)
    future = parameters.get("model.future_frames", 4)
    sparsity = parameters.get("callbacks.prune.sparsity", 0.0)
    bits = parameters.get("callbacks.cluster.bits", 32)
    weights = {"kws_dsp": 690_000, "words_repcnn": 12_460, "lm_edkm": 2_500_000}[recipe]
    # Harder compression and a shorter context cost quality, with diminishing returns.
    harm = 0.25 * sparsity**6 + 0.5 * 2.0 ** (-1.5 * bits) + 0.5 / past + 0.02 / (1 + future) + draw.gauss(0, 0.004)
    record = Record(
        run_id=run_id,
        recipe=recipe,
        family={"kws_dsp": "KeywordDSP", "words_repcnn": "SpokenWordCNN", "lm_edkm": "CausalLM"}[recipe],
        seed=seed,
        group=f"{abs(hash_of([recipe, parameters])):016x}",
        hash=f"{abs(hash_of([recipe, parameters, seed])):016x}",
        config={"seed_everything": seed, "run": dict(zip(("monitor", "mode"), MONITORS[recipe], strict=True))},
        knobs={"model": recipe, "model.dim": 144, "trainer.max_epochs": 12, **parameters, "seed_everything": seed},
        status="finished",
        started=started.isoformat(timespec="seconds"),
        finished=(started + timedelta(minutes=5)).isoformat(timespec="seconds"),
        seconds={"fit": draw.uniform(120, 400), "finalize": 2.1, "test": 8.2, "export": 6.0, "benchmark": 3.0},
        stages=dict.fromkeys(("fit", "finalize", "test", "export", "benchmark"), "finished"),
        code={"version": "0.1.0", "commit": f"{draw.getrandbits(64):016x}", "dirty": False},
        tracking={"id": run_id, "mode": "offline", "project": recipe, "entity": None, "url": None},
    )
    if recipe == "kws_dsp":
        _pairs(record, harm, draw, points)
        record.context = {"past_ms": past * 40.0, "future_ms": future * 40.0, "state_bytes": past * 144 * 4 * 6}
    elif recipe == "words_repcnn":
        _words(record, harm, draw, points)
        record.context = {"past_ms": None, "future_ms": None, "state_bytes": None}
    else:
        _language(record, harm, draw)
        record.context = {"past_ms": None, "future_ms": 0.0, "past_tokens": 512, "state_bytes": 2_359_296}
    nonzero = int(weights * (1 - sparsity))
    record.size = {
        "parameters": weights,
        "nonzero": nonzero,
        "macs": weights * 40,
        "peak_memory_bytes": 14_000_000 + 4 * weights,
    }
    if sparsity:
        record.compression["prune"] = {"phase": "prune", "max_abs_diff": 0.0, "compress/sparsity": sparsity}
    if bits < 32:
        facts = {"compress/bits_per_weight": bits + 0.1, "compress/bytes": weights * bits // 8}
        record.compression["cluster"] = {"phase": "cluster", "max_abs_diff": 0.0, **facts}
    machine = draw.choices(list(MACHINES), [share for share, *_ in MACHINES.values()])[0]
    record.environment = dict(zip(("cpu", "cores"), MACHINES[machine][2:], strict=True))
    record.artifacts = [_artifact(recipe, weights, nonzero, past, machine, draw)]
    return record


def hash_of(value: Any) -> int:
    """Of a JSON-able value; Python's own differs from process to process."""
    text = json.dumps(value, sort_keys=True).encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1])


def _artifact(recipe: str, weights: int, nonzero: int, past: int, machine: str, draw: random.Random) -> Artifact:
    speed = MACHINES[machine][1]
    p50 = speed * (0.15 + weights * 40e-9 * 8 + past / 100) * draw.uniform(0.95, 1.1)
    per, chunk = {"kws_dsp": ("hop", 40.0), "words_repcnn": ("clip", 1000.0), "lm_edkm": ("token", None)}[recipe]
    latency: Latency = {
        "per": per,
        "chunk_ms": chunk,
        "content": "speech-like noise",
        "threads": 1,
        "p50_ms": p50,
        "p90_ms": p50 * draw.uniform(1.05, 1.5),
        "p99_ms": p50 * draw.uniform(1.6, 3.0),
        "rtf": None if chunk is None else p50 / chunk,
        "fingerprint": machine,
    }
    return {
        "format": "onnx",
        "precision": "fp32",
        "path": "export/model.onnx",
        "sha256": f"{draw.getrandbits(256):064x}",
        "bytes": weights * 4 + 30_000,
        "gzip_bytes": int(nonzero * 3.6) + 8_000,
        "parity": {"max_abs_diff": 3.3e-6, "inputs": 64, "tolerance": 1e-4, "integer_mismatches": 0},
        "latency": [latency],
    }


# --- quality ---


def _measured(value: float, half: float, n: int, method: str, low: float = 0.0, high: float = 1.0) -> Measured:
    value = min(high, max(low, value))
    return {"value": value, "low": max(low, value - half), "high": min(high, value + half), "n": n, "method": method}


def _pairs(record: Record, harm: float, draw: random.Random, points: int) -> None:
    """AUC, EER and operating points of two Gaussians, easy and hard negatives, seen and unseen words."""
    method = "bootstrap over episodes, 1000"
    for test_set, shift in (("", 0.0), ("unseen_words/", 0.25)):
        for kind, distance in (("easy", 3.6), ("hard", 1.95)):
            apart = max(0.1, distance * (1 - 2 * max(0.0, harm)) - shift + draw.gauss(0, 0.02))
            auc, eer = NormalDist().cdf(apart / math.sqrt(2)), NormalDist().cdf(-apart / 2)
            for suffix, n, wider in (("", 500, 1.0), ("_w1", 125, 2.0), ("_w2", 125, 2.0)):
                noise = draw.gauss(0, 0.002) if suffix else 0.0
                names = (f"test/{test_set}auc_{kind}{suffix}", f"test/{test_set}eer_{kind}{suffix}")
                record.metrics[names[0]] = _measured(auc + noise, 0.06 * (1 - auc) * wider + 0.002, n, method)
                record.metrics[names[1]] = _measured(eer + noise, 0.1 * eer * wider + 0.001, n, method)
            steps = [-4 + 8 * i / (points - 1) for i in range(points)]
            record.curves[f"{test_set or 'test/'}{kind}"] = {
                "threshold": steps,
                "frr": [NormalDist().cdf(step - apart / 2) for step in steps],
                "far": [1 - NormalDist().cdf(step + apart / 2) for step in steps],
            }
    record.headline = ["test/auc_easy", "test/auc_hard", "test/eer_easy", "test/eer_hard"]
    record.threshold = {"value": 0.31, "target": "equal error rate"}
    record.reference = {"run_id": "", "metrics": {}, "size": {}}
    _training(record, {"val/auc_hard": record.metrics["test/auc_hard"]["value"] or 0.5}, draw)


def _words(record: Record, harm: float, draw: random.Random, points: int) -> None:
    for name in ("accuracy", "macro_accuracy"):
        record.metrics[f"test/{name}"] = _measured(0.955 - harm + draw.gauss(0, 0.003), 0.013, 1200, "Wilson")
    for word in ("yes", "no", "up", "down", "on", "off", "stop", "go"):
        record.metrics[f"test/recall_{word}"] = _measured(0.95 - harm + draw.gauss(0, 0.02), 0.04, 100, "Wilson")
    record.headline = ["test/macro_accuracy"]
    false_alarms = [10 ** (-2 + 3 * i / (points - 1)) for i in range(points)]
    missed = [min(1.0, (0.02 + harm) * rate**-0.4) for rate in false_alarms]
    record.curves["stream"] = {"fa_per_hour": false_alarms, "frr": missed}
    _training(record, {"val/macro_accuracy": record.metrics["test/macro_accuracy"]["value"] or 0.5}, draw)


def _language(record: Record, harm: float, draw: random.Random) -> None:
    bits = 2.3 + 2 * max(0.0, harm) + draw.gauss(0, 0.01)
    method = "bootstrap over documents, 1000"
    found = {"loss": bits * math.log(2), "perplexity": 2**bits, "bits_per_byte": bits}
    for name, value in found.items():
        record.metrics[f"test/{name}"] = _measured(value, 0.06 * value, 60, method, high=math.inf)
    record.headline = ["test/bits_per_byte", "test/perplexity"]
    _training(record, {"val/bits_per_byte": bits}, draw)


def _training(record: Record, ends: dict[str, float], draw: random.Random) -> None:
    """Curves that approach their ends, and a falling loss."""
    epochs, steps = range(1, 13), range(49, 12 * 250, 50)
    training = {
        name: {
            "step": [250 * epoch - 1 for epoch in epochs],
            "value": [end + (0.5 - end) * math.exp(-epoch / 3) + draw.gauss(0, 0.004) for epoch in epochs],
        }
        for name, end in {**ends, "val/loss": 0.4}.items()
    }
    falling = [0.3 + 4.5 * math.exp(-step / 800) + abs(draw.gauss(0, 0.05)) for step in steps]
    training["train/loss"] = {"step": list(steps), "value": falling}
    record.curves["training"] = training


def _encoder(run_id: str, started: datetime, draw: random.Random) -> Record:
    record = _run("kws_dsp", run_id, started, {}, 7, draw, 2)
    record.recipe, record.family, record.curves = (
        "kws_encoder",
        "KeywordEncoder",
        {"training": record.curves["training"]},
    )
    record.metrics = {"test/phone_error_rate": _measured(0.21, 0.01, 1680, "bootstrap over clips, 1000")}
    record.headline, record.artifacts, record.size = ["test/phone_error_rate"], [], {"parameters": 650_000}
    return record


def _ending(record: Record, draw: random.Random) -> None:
    """Some runs do not end well."""
    fate = draw.random()
    if fate >= 0.10:
        return
    record.finished = None
    record.artifacts, record.size, record.metrics, record.compression = [], {}, {}, {}
    record.curves = {"training": record.curves["training"]}
    record.headline, record.threshold, record.seconds = [], {}, {"fit": record.seconds["fit"] / 2}
    record.sweep = {**record.sweep, "value": None} if record.sweep else {}
    if fate < 0.03:
        record.status, record.error = (
            "failed",
            "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.",
        )
    elif fate < 0.05:
        record.status, record.error = "interrupted", "stopped by a signal"
    elif fate < 0.07:  # its process is gone: a reader shows it as died
        record.status = "running"
        record.process = {"pid": 4711, "host": HOST, "birth": None, "heartbeat": record.started}
    elif fate < 0.075:
        record.status = "running"
        record.process = {"pid": 4712, "host": HOST, "birth": None, "heartbeat": "2999-01-01T00:00:00+00:00"}
    elif record.sweep:
        record.status, record.sweep["pruned"] = "finished", True
