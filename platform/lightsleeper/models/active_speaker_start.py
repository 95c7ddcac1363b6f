"""What an `ActiveSpeaker` begins with: a finished one, or its encoders alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.models.family import SavedModel, read_model
from lightsleeper.nn.limited_attention import LimitedLayer, narrowed
from lightsleeper.nn.speaker_net import FusionSpec, SpeakerNet

_ENCODERS = ("encoders.", "face_head.")


def start_whole(net: SpeakerNet, source: str | Path) -> None:
    """All weights of the finished model at ``source``, whose budget is the same or larger. Raises UserError."""
    start = read_model(source, "ActiveSpeaker", "init_from")
    weights = _weights(start)
    for name, module in net.named_modules():
        if isinstance(module, LimitedLayer) and f"{name}.positions" in weights:
            weights[f"{name}.positions"] = _positions(weights[f"{name}.positions"], module, start, name)
    _load(net, weights, start, "init_from")


def _positions(table: Tensor, layer: LimitedLayer, start: SavedModel, name: str) -> Tensor:
    keys = ("layers", "past_frames", "future_frames", "spread_future", "heads")
    spec = FusionSpec("transformer", *(start.init_args[key] for key in keys))
    old: Any = spec.build(layer.dim).get_submodule(name.removeprefix("fusion."))
    try:
        return narrowed(table, (old.before, old.after), (layer.before, layer.after))
    except ValueError as error:
        raise UserError(f"init_from: '{start.folder}' has {error}") from error


def start_encoders(net: SpeakerNet, source: str | Path, own: Mapping[str, Any]) -> None:
    """Encoders and the head of the face from ``source``. Raises UserError where they are of another kind."""
    start = read_model(source, "ActiveSpeaker", "encoders_from")
    for key in ("size", "time"):
        if start.init_args[key] != own[key]:
            raise UserError(
                f"encoders_from: those of '{start.folder}' have {key} {start.init_args[key]}; this model's {own[key]}"
            )
    weights = {name: value for name, value in _weights(start).items() if name.startswith(_ENCODERS)}
    kept = {name: value for name, value in net.state_dict().items() if not name.startswith(_ENCODERS)}
    _load(net, {**kept, **weights}, start, "encoders_from")


def _weights(start: SavedModel) -> dict[str, Tensor]:
    return {name.removeprefix("net."): value for name, value in start.weights().items() if name.startswith("net.")}


def _load(net: SpeakerNet, weights: Mapping[str, Tensor], start: SavedModel, key: str) -> None:
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise start.misfit(error, key) from error
