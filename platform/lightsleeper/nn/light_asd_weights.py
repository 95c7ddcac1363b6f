"""Published Light-ASD weights, by the names of their state dict, for `SpeakerNet` with a fusion of two GRUs.

A name there is ``model.visualEncoder.block1.bn_s_3.weight``: encoder, block, spatial (s for faces, m for sound) or
temporal (t) layer with its kernel. Its convolutions over faces have five axes, one of them of length 1.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.nn.light_asd import KERNELS

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_GRU = tuple(f"{kind}_{of}_l0" for kind in ("weight", "bias") for of in ("ih", "hh"))


def names() -> dict[str, str]:
    """Published name -> name in an `ActiveSpeaker` of size light_asd with fusion bigru."""
    found: dict[str, str] = {}
    for encoder, ours, space, image in (("visualEncoder", "faces", "s", ".layer"), ("audioEncoder", "sound", "m", "")):
        for block in range(3):
            theirs, mine = f"model.{encoder}.block{block + 1}", f"encoders.{ours}.layers.{2 * block}.layers"
            found.update(_block(theirs, mine, space, image))
    for theirs, mine in (("gru_forward", "forward_gru"), ("gru_backward", "backward_gru")):
        found.update({f"model.GRU.{theirs}.{name}": f"fusion.{mine}.{name}" for name in _GRU})
    for theirs, mine in (("lossAV", "head"), ("lossV", "face_head")):
        found.update({f"{theirs}.FC.{name}": f"{mine}.{name}" for name in ("weight", "bias")})
    return found


def _block(theirs: str, mine: str, space: str, image: str) -> Iterator[tuple[str, str]]:
    for path, kernel in enumerate(KERNELS):
        yield from _layer(theirs, f"{space}_{kernel}", f"{mine}.0.paths.{path}.layers.0{image}")
        yield from _layer(theirs, f"t_{kernel}", f"{mine}.0.paths.{path}.layers.1.layer")
    yield from _layer(theirs, "last", f"{mine}.1{image}")


def _layer(theirs: str, name: str, mine: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.{name}.weight", f"{mine}.0.weight"
    for part in _NORM:
        yield f"{theirs}.bn_{name}.{part}", f"{mine}.1.{part}"


def read(path: str | Path) -> dict[str, Tensor]:
    """The file of published weights under our names.

    Raises UserError for a file that is none, and for names that are missing.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damaged file makes it meet
        raise UserError(f"weights: cannot read '{path}': {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"weights: '{path}' is no state dict")
    return renamed(loaded, str(path))


def renamed(loaded: Mapping[str, Tensor], source: str = "the state dict") -> dict[str, Tensor]:
    """``loaded`` under our names; a leading ``module.`` of parallel training is dropped. Raises UserError."""
    given = {name.removeprefix("module."): value for name, value in loaded.items()}
    wanted = names()
    if missing := [name for name in wanted if name not in given]:
        raise UserError(f"weights: {source} has no '{missing[0]}' ({len(missing)} of {len(wanted)} names missing)")
    return {ours: _flat(given[theirs]) for theirs, ours in wanted.items()}


def _flat(weight: Tensor) -> Tensor:
    """Of a convolution over (time, height, width) the two axes it works on."""
    if weight.dim() != 5:
        return weight
    return weight.squeeze(2) if weight.shape[2] == 1 else weight.flatten(3)
