"""From a trained, prepared module to the plain one that ships, and its folder on disk.

First every method's lossy step (harden, snap), whose effect is measured; then batch-norm statistics, where a method
asks for them; then the exact steps (fold, remove channels), which have to leave the outputs as they are.
"""

import copy
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightsleeper_callbacks.base import Compression, compressions
from lightsleeper_callbacks.structure import Structure, rebuild
from lightsleeper_callbacks.weights import own_class

M = TypeVar("M", bound=nn.Module)
Outputs = Callable[[Any], Sequence[Tensor]]
"""What a module computes on a few fixed inputs; nothing when that cannot be told."""

TOLERANCE = 1e-5
"""Largest change of an output by an exact step, as a share of the largest output (at least 1): float32 rounding."""


class NotExactError(RuntimeError):
    """A step that has to leave the outputs as they are has changed them."""


def detached_copy(module: M) -> M:
    """A float32 CPU copy in eval mode that no longer knows its Trainer (which would be copied whole with it)."""
    kept: dict[str, Any] = {name: value for name, value in vars(module).items() if name in ("_trainer", "_fabric")}
    for name in kept:
        module.__dict__[name] = None
    try:
        copied = copy.deepcopy(module)
    finally:
        module.__dict__.update(kept)
    for layer in copied.modules():
        own_class(layer)
    return copied.cpu().float().eval()


def finalize(
    module: M,
    callbacks: Iterable[Callback],
    outputs: Outputs | None = None,
    batches: Callable[[], Iterable[Any]] | None = None,
) -> tuple[M, Structure, dict[str, dict[str, Any]]]:
    """Bake all compression callbacks into plain weights, on a copy; ``module`` is not touched.

    Args:
        module: as trained, with the best weights loaded.
        callbacks: those of its Trainer; others than compressions are passed over.
        outputs: what to compare; default ``module.example_input_array`` sent through ``forward``, where there is one.
        batches: training batches for batch-norm statistics, each given to ``training_step``; None leaves them.

    Returns the copy (float32, CPU, eval), the layers that differ from those its constructor makes, and a report per
    callback name: phase, facts, ``max_abs_diff`` of its lossy and ``exact_abs_diff`` of its exact step. Raises
    NotExactError where an exact step changed the outputs.
    """
    final: Any = detached_copy(module)
    peers = compressions(callbacks)
    read = outputs or _example_outputs
    report: dict[str, dict[str, Any]] = {_name(peer): {"phase": peer.phase.name.lower()} for peer in peers}
    structure: Structure = {}
    before = _read(read, final) if peers else []
    for peer in peers:
        final = peer.finalize(final).eval()
        after = _read(read, final)
        report[_name(peer)]["max_abs_diff"] = difference(before, after)
        before = after
    if batches is not None and any(peer.wants_statistics for peer in peers):
        estimate_batch_norm(final, batches())
        before = _read(read, final)
    for peer in peers:
        final, changed = peer.simplify(final)
        final = final.eval()
        if changed:
            structure.update(changed)
            after = _read(read, final)
            report[_name(peer)] |= {"exact_abs_diff": _prove(peer, before, after), "layers_rebuilt": len(changed)}
            before = after
    for peer in peers:
        report[_name(peer)].update(peer.report(final))
    return final, structure, report


def estimate_batch_norm(module: nn.Module, batches: Iterable[Any]) -> None:
    """Measure running means and variances anew, as plain averages over ``batches``; all else stays in eval mode."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return
    kept = [(layer.momentum, layer.training) for layer in norms]
    logging = {name: module.__dict__.get(name) for name in ("log", "log_dict")}
    for name in logging:
        module.__dict__[name] = lambda *_, **__: None  # there is no Trainer to log to
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        with torch.no_grad():
            for index, batch in enumerate(batches):
                if isinstance(module, LightningModule):
                    module.training_step(batch, index)
                else:
                    module(*_sequence(batch))
    finally:
        for layer, (momentum, training) in zip(norms, kept, strict=True):
            layer.momentum = momentum
            layer.train(training)
        for name, value in logging.items():
            if value is None:
                module.__dict__.pop(name)
            else:
                module.__dict__[name] = value


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """Largest absolute difference; None where nothing can be compared."""
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a.shape == b.shape]
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=None)


def _prove(peer: Compression, before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    who = f"'{peer.name}'" if peer.name else type(peer).__name__
    if [value.shape for value in before] != [value.shape for value in after]:
        raise NotExactError(f"{who} changed the shape of the outputs; nothing is saved")
    changed = difference(before, after)
    scale = max([1.0, *(float(value.abs().max()) for value in before if value.numel())])
    if changed is not None and not changed <= TOLERANCE * scale:  # also refuses NaN
        raise NotExactError(f"{who} should leave the outputs as they are, but changed them by {changed:.2g}")
    return changed


def _read(outputs: Outputs, module: nn.Module) -> list[Tensor]:
    with torch.inference_mode():
        return [value.clone() for value in outputs(module)]


def _example_outputs(module: nn.Module) -> list[Tensor]:
    example = getattr(module, "example_input_array", None)
    if example is None:
        return []
    result = module(**example) if isinstance(example, Mapping) else module(*_sequence(example))
    values = result.values() if isinstance(result, Mapping) else _sequence(result)
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _name(peer: Compression) -> str:
    return peer.name or type(peer).__name__


WEIGHTS = "model.safetensors"
ARCHITECTURE = "model.json"


def save_compressed(module: nn.Module, folder: str | Path, structure: Structure | None = None) -> Path:
    """Write a finalized module: weights as safetensors and, as JSON, how to build the network again.

    A LightningModule that called ``save_hyperparameters()``, or whose constructor needs no argument, is built by
    ``load_compressed``; another one has to be given to it. Needs the safetensors package. Returns the folder.
    """
    from safetensors.torch import save_model

    folder = Path(folder)
    description: dict[str, Any] = {"structure": structure or {}, **_constructor(module)}
    json.dumps(description)  # fail before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    save_model(module, str(temporary))
    description["weights_sha256"] = _sha256(temporary)
    temporary.replace(folder / WEIGHTS)
    temporary = folder / f".{ARCHITECTURE}.tmp"
    temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / ARCHITECTURE)
    return folder


def _constructor(module: nn.Module) -> dict[str, Any]:
    """``class_path`` and ``init_args``, where plain values are known for all arguments that the class needs."""
    kind = type(module)
    arguments = dict(module.hparams) if isinstance(module, LightningModule) else {}
    try:
        inspect.signature(kind).bind(**arguments)
        json.dumps(arguments)
    except TypeError:
        return {}
    if "<locals>" in kind.__qualname__:
        return {}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def load_compressed(folder: str | Path, module: nn.Module | None = None) -> nn.Module:
    """The network of ``save_compressed``, its weights loaded strictly, in eval mode on the CPU.

    ``module``: a freshly built plain one, changed in place; None builds it from the class and arguments in the folder.
    Raises ValueError for a folder that cannot be read and for weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    folder = Path(folder)
    try:
        description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
        if _sha256(folder / WEIGHTS) != description["weights_sha256"]:
            raise ValueError(f"{folder / WEIGHTS} is not the file that {ARCHITECTURE} was written for")
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"no compressed model can be read from {folder}: {error}") from error
    if module is None:
        if "class_path" not in description:
            raise ValueError(f"{folder} does not say how to build its network: give load_compressed a fresh one")
        path, _, name = description["class_path"].rpartition(".")
        module = getattr(importlib.import_module(path), name)(**description["init_args"])
    rebuild(module, description["structure"])
    try:
        load_model(module, str(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit: {' '.join(str(error).split())[:300]}") from error
    return module.eval()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
