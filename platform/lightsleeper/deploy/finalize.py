"""The deliverable as a torch model: compression baked in, on a copy; saved as safetensors and rebuilt from JSON.

A model folder holds `model.safetensors` and `model.json` ({"class_path", "init_args", "weights_sha256", "meta"}): no
pickle, and no file of the training run is needed to load it.
"""

import copy
import importlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightsleeper_callbacks.base import Compression
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch

from lightsleeper.deploy.files import replacing, sha256
from lightsleeper.errors import UserError
from lightsleeper.models.family import Family

WEIGHTS = "model.safetensors"
ARCHITECTURE = "model.json"
SAMPLES = 4  # inputs on which a compression step's effect is measured


def detached_copy(model: Family) -> Family:
    """A float32 CPU copy in eval mode that no longer knows its Trainer (a Trainer would be copied whole with it)."""
    trainer, fabric = model._trainer, model._fabric
    model._trainer = model._fabric = None
    try:
        copied = copy.deepcopy(model)
    finally:
        model._trainer, model._fabric = trainer, fabric
    return copied.cpu().float().eval()


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
        found += [value.clone() for value in outputs if value.is_floating_point()]
    return found


def _difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float | None:
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a.shape == b.shape]
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=None)


def finalize(model: Family, callbacks: Mapping[str, Callback]) -> tuple[Family, dict[str, Any]]:
    """Bake every compression callback into plain weights, in the order of their phases, on a copy.

    Returns the copy (float32, CPU, eval) and a report per callback name: its phase, its facts (`compress/...`) and
    ``max_abs_diff``, how far the step moved the headline graph's outputs (recorded, not judged: hardening and snapping
    lose something by design). A step that changed the structure also reports the ``architecture`` that rebuilds it,
    which the copy's ``architecture()`` returns from then on. ``model`` is not touched.
    """
    final = detached_copy(model)
    report: dict[str, Any] = {}
    compressions = {name: callback for name, callback in callbacks.items() if isinstance(callback, Compression)}
    before = _outputs(final) if compressions else []
    for name, callback in sorted(compressions.items(), key=lambda item: item[1].phase):
        module, architecture = callback.finalize(final)
        assert isinstance(module, Family), f"{type(callback).__name__}.finalize returned a {type(module).__name__}"
        final = module.eval()
        report[name] = {"phase": callback.phase.name.lower(), **callback.report(final)}
        if architecture is not None:
            final.architecture = partial(dict, architecture)  # type: ignore[method-assign]
            report[name]["architecture"] = architecture
        after = _outputs(final)
        report[name]["max_abs_diff"] = _difference(before, after)
        before = after
    return final, report


def model_folder(source: str | Path) -> Path:
    """The folder with `model.json` that ``source`` means: itself, or the `export/` of a run folder."""
    source = Path(source)
    for folder in (source, source / "export"):
        if (folder / ARCHITECTURE).is_file():
            return folder
    if not source.exists():
        raise UserError(f"{source} does not exist: expected a run folder or an exported model folder.")
    if (source / "record.json").is_file():
        raise UserError(f"{source} is a run without a finalized model: it did not reach its finalize stage.")
    raise UserError(f"{source} is neither a run folder nor a model folder: it has no {ARCHITECTURE}.")


def save_model(model: Family, folder: Path, meta: Mapping[str, Any]) -> Path:
    """Write weights, then the architecture that names their digest; returns the folder.

    Raises UserError when the folder cannot be written, TypeError when the architecture or ``meta`` is not JSON-able.
    """
    folder = Path(folder)
    description = {
        "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
        "init_args": model.architecture(),
        "meta": dict(meta),
    }
    json.dumps(description)  # fail before anything is written
    with replacing(folder / WEIGHTS) as temporary:
        safetensors_torch.save_model(model, str(temporary))
        description["weights_sha256"] = sha256(temporary)
    with replacing(folder / ARCHITECTURE) as temporary:
        temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


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
    family = model_class(description["class_path"])
    try:
        model = family(**description["init_args"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / ARCHITECTURE}: {description['class_path']} cannot be built: {error}") from error
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
