"""The ways of `bench lm` to make a language model's file smaller, and the trainings they start from.

A training is named by the callbacks it runs with; "" is one without any. Several ways may end the same training, which
then runs once: fine-tuned weights ship as they are, or are clustered or rounded afterwards, which tells what training
with the compression is worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightsleeper_callbacks.base import compressions, prepare_in_order
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.pdp import PDPMasking

from lightsleeper.bench import rounding
from lightsleeper.deploy import packed
from lightsleeper.deploy.finalize import finalize
from lightsleeper.models.causal_lm import CausalLM

BITS, EMBEDDING_BITS = 3, 8
CHANNELS = 8  # that share a table, where a layer has several
Callbacks = dict[str, Callback]
Ship = Callable[[CausalLM, Callbacks, Path], tuple[CausalLM, dict[str, Any]]]
"""Of a trained model, its callbacks and a path: the model that ships, its file written there, and facts of the file."""


def cluster(group_size: int | None = None) -> EDKMClustering:
    return EDKMClustering(bits=BITS, embedding_bits=EMBEDDING_BITS, group_size=group_size)


TRAININGS: dict[str, Callable[[], Callbacks]] = {
    "": dict,
    "edkm": lambda: {"cluster": cluster()},
    "edkm_group": lambda: {"cluster": cluster(CHANNELS)},
    "pdp": lambda: {"prune": PDPMasking(sparsity=0.5)},
    "2of4": lambda: {"prune": PDPMasking(mode="n:m", pattern="2:4")},
    "pdp_edkm": lambda: {"prune": PDPMasking(sparsity=0.5), "cluster": cluster()},
}


def as_trained(model: CausalLM, callbacks: Callbacks, path: Path) -> tuple[CausalLM, dict[str, Any]]:
    """What the callbacks make of it, in the platform's own packed file, read back from there."""
    final, report = finalize(model, callbacks)
    assert isinstance(final, CausalLM)
    facts = packed.pack(final, path)
    return packed.unpack(path, final), {**facts, "compression": report}


def clustered(
    group_size: int | None, model: CausalLM, callbacks: Callbacks, path: Path
) -> tuple[CausalLM, dict[str, Any]]:
    """The start of eDKM and no more: k-means, one table a layer or for so many output channels."""
    own: Callbacks = {"cluster": cluster(group_size)}
    prepare_in_order(compressions(list(own.values())), model)
    return as_trained(model, own, path)


def rounded(
    group: rounding.Group, model: CausalLM, callbacks: Callbacks, path: Path
) -> tuple[CausalLM, dict[str, Any]]:
    return model, rounding.write(rounding.round_weights(model, BITS, EMBEDDING_BITS, group), path)


@dataclass(frozen=True)
class Arm:
    """One way."""

    label: str
    ship: Ship
    training: str | None = None
    """Of TRAININGS; None: the weights as they were given."""


ARMS: dict[str, Arm] = {
    "original": Arm("as it was given", as_trained),
    "round_tensor": Arm("rounded, a scale a tensor", partial(rounded, "tensor")),
    "round_channel": Arm("rounded, a scale a channel", partial(rounded, "channel")),
    "round_group": Arm("rounded, a scale for 64", partial(rounded, 64)),
    "kmeans": Arm("k-means, a table a layer", partial(clustered, None)),
    "kmeans_group": Arm(f"k-means, a table for {CHANNELS} channels", partial(clustered, CHANNELS)),
    "tuned": Arm("trained on", as_trained, ""),
    "tuned_round": Arm("trained on, then rounded by 64", partial(rounded, 64), ""),
    "tuned_kmeans": Arm("trained on, then k-means", partial(clustered, None), ""),
    "edkm": Arm("trained on with eDKM", as_trained, "edkm"),
    "edkm_group": Arm(f"trained on, eDKM by {CHANNELS} channels", as_trained, "edkm_group"),
    "pdp": Arm("trained on, PDP 50 %", as_trained, "pdp"),
    "2of4": Arm("trained on, PDP 2:4", as_trained, "2of4"),
    "pdp_edkm": Arm("trained on, PDP 50 % and eDKM", as_trained, "pdp_edkm"),
}
