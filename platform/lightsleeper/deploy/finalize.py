"""The deliverable as a torch model: compression baked in, on a copy; saved as safetensors and rebuilt from JSON.

A model folder holds `model.safetensors` and `model.json` ({"class_path", "init_args", "structure", "weights_sha256",
"meta"}; structure: layers that compression has rebuilt): no pickle, and no file of the training run is needed to load.
"""

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightsleeper_callbacks.base import Compression
from lightsleeper_callbacks.finalize import NotExactError, detached_copy
from lightsleeper_callbacks.finalize import finalize as compress
from lightsleeper_callbacks.structure import rebuild
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch

from lightsleeper.errors import UserError
from lightsleeper.files import replacing, sha256, write_json
from lightsleeper.models.family import Family
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, RECORD, WEIGHTS

__all__ = [
    "build",
    "describe",
    "detached_copy",
    "finalize",
    "load_model",
    "model_class",
    "model_folder",
    "read_description",
    "save_model",
]

STATE = "next_state"  # output of a streaming graph
SAMPLES = 4  # inputs on which a compression step's effect is measured


@torch.inference_mode()
def _outputs(model: Family) -> list[torch.Tensor]:
    """What the headline graph computes on SAMPLES inputs; empty for a family without an export graph."""
    try:
        graph = model.export_spec()[0]
    except (NotImplementedError, IndexError, UserError):
        return []
    found: list[torch.Tensor] = []
    for seed in range(SAMPLES):
        outputs = graph.module(*graph.sample(seed).values())
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        # A state says nothing that the next outputs do not, and is smaller where channels were removed.
        named = zip(graph.outputs, outputs, strict=True)
        found += [value for name, value in named if value.is_floating_point() and name != STATE]
    return found


def finalize(
    model: Family,
    callbacks: Mapping[str, Callback],
    batches: Callable[[], Iterable[Any]] | None = None,
) -> tuple[Family, dict[str, Any]]:
    """Bake every compression callback into plain weights, on a copy: lossy steps first, then the exact ones.

    Returns the copy (float32, CPU, eval; the layers that were ever rebuilt are its ``structure``) and a report per
    callback name: its phase, its facts (`compress/...`), how far its lossy step moved the headline graph's outputs
    (``max_abs_diff``: recorded, not judged) and how far its exact one did. ``batches`` gives training batches for
    batch-norm statistics. ``model`` is not touched. Raises UserError where an exact step was none.
    """
    for name, callback in callbacks.items():
        if isinstance(callback, Compression):
            callback.name = name
    try:
        final, structure, report = compress(model, callbacks.values(), _outputs, batches)
    except NotExactError as error:
        raise UserError(f"callbacks: {error}.") from error
    assert isinstance(final, Family), f"a compression callback returned a {type(final).__name__}"
    final.structure = {**model.structure, **structure}  # of a model that was finalised before, what changed then too
    return final, report


def model_folder(source: str | Path) -> Path:
    """The folder with `model.json` that ``source`` means: itself, or the `export/` of a run folder."""
    source = Path(source)
    for folder in (source, source / EXPORT):
        if (folder / ARCHITECTURE).is_file():
            return folder
    if not source.exists():
        raise UserError(f"{source} does not exist: expected a run folder or an exported model folder.")
    if (source / RECORD).is_file():
        raise UserError(f"{source} is a run without a finalized model: it did not reach its finalize stage.")
    raise UserError(f"{source} is neither a run folder nor a model folder: it has no {ARCHITECTURE}.")


def save_model(model: Family, folder: Path, meta: Mapping[str, Any]) -> Path:
    """Write weights, then the architecture that names their digest; returns the folder.

    Raises UserError when the folder cannot be written, TypeError when the architecture or ``meta`` is not JSON-able.
    """
    folder = Path(folder)
    description = {**describe(model), "meta": dict(meta)}
    json.dumps(description)  # fail before anything is written
    with replacing(folder / WEIGHTS) as temporary:
        safetensors_torch.save_model(model, str(temporary))
        description["weights_sha256"] = sha256(temporary)
    write_json(folder / ARCHITECTURE, description, indent=2)
    return folder


def describe(model: Family) -> dict[str, Any]:
    """What `build` needs: class, constructor arguments, and layers that compression has rebuilt."""
    return {
        "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
        "init_args": model.architecture(),
        "structure": model.structure,
    }


def build(description: Mapping[str, Any], source: Path) -> Family:
    """The family that ``source`` describes, with weights that are still to be loaded. Raises UserError."""
    family = model_class(description["class_path"])
    try:
        model = family(**description["init_args"])
        model.structure = description.get("structure", {})
        rebuild(model, model.structure)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: {description['class_path']} cannot be built: {error}") from error
    return model


def load_model(folder: str | Path) -> Family:
    """Rebuild a finalized model from a model folder or a run folder, strictly, in eval mode on the CPU.

    Raises UserError for a missing or broken file, an unknown class, and weights that are not those of `model.json`.
    """
    folder = model_folder(folder)
    description = read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: {WEIGHTS} is missing.")
    expected = description.get("weights_sha256")
    if expected is not None and sha256(weights) != expected:
        raise UserError(f"{weights} is not the file {ARCHITECTURE} was written for (sha256 differs): export again.")
    model = build(description, folder / ARCHITECTURE)
    try:
        safetensors_torch.load_model(model, str(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{weights} does not fit {description['class_path']}: {reason}") from error
    return model.eval()


def read_description(folder: Path) -> dict[str, Any]:
    """The content of `model.json`. Raises UserError when it is not valid."""
    path = folder / ARCHITECTURE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(description, dict) or not {"class_path", "init_args"} <= description.keys():
        raise UserError(f"{path} is no model description: expected class_path and init_args.")
    return description


def model_class(class_path: str) -> type[Family]:
    """The family class behind a dotted path. Raises UserError when it is not importable or not a family."""
    module, _, name = class_path.rpartition(".")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model class '{class_path}' cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise UserError(f"'{class_path}' is not a model family (a subclass of {Family.__module__}.Family).")
    return found
