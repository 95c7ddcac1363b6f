"""Weight subcloning: the first weights of a small transformer, taken from a larger trained one of its family.

Samragh et al., arXiv 2312.09299. Residual neurons are sorted by their mean magnitude, in one order for the whole
stream; the leading ones, the strongest heads and hidden neurons and the outer blocks are kept; weights that lose
inputs grow by sqrt(before / after). The result is a start, not a usable model. Where the paper's text is not known
(how many samples, the split of kept blocks, tied embeddings, heads) the choices are stated where they are made.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.subclone_cut import Blocks, Kept, choose_blocks, keep, source_of, transfer
from lightsleeper_callbacks.subclone_parent import find_transformer, load_parent, model_inputs, parent_config
from lightsleeper_callbacks.subclone_scores import (
    Moments,
    Scores,
    Statistic,
    constant_scores,
    measure,
    random_scores,
    rescale,
)
from lightsleeper_callbacks.subclone_wiring import (
    Sizes,
    check_fit,
    check_output_layer,
    family_of,
    matches,
    summing_layers,
    weights_below_base,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CATALOG = ("SubcloneInitialization",)

Order = Literal["importance", "random", "first"]
Scaling = Literal["sqrt", "none", "measured"]


@dataclass(frozen=True)
class Subcloned:
    """What ``subclone`` did."""

    kept: Kept
    fresh: tuple[str, ...]
    """Weights left as they were built: heads that the parent lacks, or has for another number of classes."""
    parent_parameters: int
    kept_parameters: int
    """Parameters of the destination that come from the parent."""
    seconds: float
    """Calibration and copying."""


def subclone(
    parent: "PreTrainedModel",
    destination: "PreTrainedModel",
    batches: Iterable[Mapping[str, Tensor]] | None = None,
    *,
    order: Order = "importance",
    scaling: Scaling = "sqrt",
    blocks: Blocks = "middle",
    statistic: Statistic = "magnitude",
    balance: bool = False,
    seed: int = 0,
    absent: Collection[str] = (),
) -> Subcloned:
    """Fill a freshly built ``destination`` from a larger ``parent`` of its family, in place; the parent stays.

    Args:
        parent: trained, at least as large in every size.
        destination: freshly built.
        batches: calibration samples as keyword arguments of the parent; not needed where nothing is measured.
        order: which neurons, heads and hidden neurons to keep: the most important ones, random ones, or the first.
        scaling: "sqrt" multiplies a weight that loses inputs by sqrt(before / after); "none" does not; "measured" goes
            on from "sqrt" and gives each layer the parent's standard deviation on the first batch.
        blocks: drop the middle ones, keep the first, keep evenly strided ones, or drop the contiguous inner run that
            changes the stream least ("score").
        statistic: mean magnitude, or the variance, of the residual stream.
        balance: let each block's stream weigh the same, however large it is.
        seed: of the random order.
        absent: names below the base model of the parent's weights that hold nothing learned.

    Raises ValueError, with one line, where the two do not fit: another family, vocabulary or head width, any size above
    the parent's, heads that grouped queries do not allow, a broken pattern of block kinds.
    """
    started = time.perf_counter()
    check_fit(parent.config, destination.config)
    old, new = Sizes.of(parent.config), Sizes.of(destination.config)
    outputs: dict[str, Moments] = {}
    first: Mapping[str, Tensor] | None = None
    scores = random_scores(old, seed) if order == "random" else constant_scores(old)
    if needs_batches(order, scaling, blocks):
        batches = list(batches or ())
        if not batches:
            raise ValueError("no calibration batches were given; only order 'first' or 'random' does without")
        first = batches[0]
        measured, outputs = measure(parent, batches, statistic, balance, outputs=scaling == "measured")
        scores = (
            measured if order == "importance" else Scores(scores.stream, scores.heads, scores.hidden, measured.blocks)
        )
    kept = keep(old, new, scores, choose_blocks(old.depth, new.depth, blocks, scores.blocks))
    fresh = transfer(parent, destination, kept, scaling != "none", absent)
    if scaling == "measured" and first is not None:
        _rescale(destination, kept, outputs, first, fresh)
    return Subcloned(
        kept=kept,
        fresh=fresh,
        parent_parameters=sum(p.numel() for p in parent.parameters()),
        kept_parameters=sum(p.numel() for name, p in destination.named_parameters() if name not in fresh),
        seconds=time.perf_counter() - started,
    )


def needs_batches(order: Order, scaling: Scaling, blocks: Blocks) -> bool:
    return order == "importance" or scaling == "measured" or blocks == "score"


def _rescale(
    destination: "PreTrainedModel",
    kept: Kept,
    outputs: Mapping[str, Moments],
    batch: Mapping[str, Tensor],
    fresh: Collection[str],
) -> None:
    """Give each layer the spread that the kept rows of the parent's have."""
    spread: dict[str, float] = {}
    for name, (layer, wire) in summing_layers(destination).items():
        if name not in fresh and (moments := outputs.get(source_of(wire, kept))) is not None:
            variance, rows = moments.variance(), 1 - (wire.summed or 0)
            index = kept.index(wire.axes[rows], wire.block, len(variance), layer.weight.shape[rows])  # type: ignore
            spread[name] = float(variance[index].mean().sqrt())
    norm = family_of(destination.config).last_norm
    gains = [part for name, part in weights_below_base(destination).items() if matches(name, (norm,))]
    rescale(destination, batch, spread, gains)


class SubcloneInitialization(Compression):
    """Start the training of a small transformer from the weights of a larger one of its family.

    For any LightningModule that holds exactly one model of transformers: GPT-2, LLaMA, Mistral, Qwen 2 and 3, BERT or
    ViT. Its weights are filled before the optimizer is built; everything else (schedule, moving averages) starts
    fresh. A subcloned start tends to want a lower learning rate than a random one.

    A run that continues takes its weights from the checkpoint. Where ``trainer.ckpt_path`` was set before the fit, no
    parent is needed; ``fit(ckpt_path=...)`` is known only after setup, so the parent is read and measured once more.

    Args:
        parent: the trained larger model: hub name, local folder, GGUF file, or a module.
        gguf_file: name of a GGUF file where the parent's folder holds several; its weights are dequantised.
        calibration_batches: training batches on which importance is measured (the paper's number is not known).
        order: what to keep: importance, random or first.
        scaling: sqrt, none, or measured (each layer gets the parent's spread on one batch).
        blocks: what to drop of the depth: middle; or keep first, strided; or drop the run that changes least, score.
        statistic: of the residual stream: magnitude or variance.
        balance: whether each block's stream weighs the same in the order.
        seed: of the random order and of the choice of batches.

    Raises ValueError for values out of range; ``check`` for a parent that does not fit.

    Example::

        Trainer(callbacks=[SubcloneInitialization("models/gpt2-large")]).fit(model, datamodule=text)
    """

    phase = Phase.INITIALIZE
    sharded = True

    def __init__(
        self,
        parent: str | Path | nn.Module,
        gguf_file: str | None = None,
        calibration_batches: int = 8,
        order: Order = "importance",
        scaling: Scaling = "sqrt",
        blocks: Blocks = "middle",
        statistic: Statistic = "magnitude",
        balance: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("order", order, Order),
            ("scaling", scaling, Scaling),
            ("blocks", blocks, Blocks),
            ("statistic", statistic, Statistic),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got '{value}'")
        if calibration_batches < 1:
            raise ValueError(f"calibration_batches must be at least 1, got {calibration_batches}")
        self.parent = parent
        self.gguf_file = gguf_file
        self.calibration_batches = calibration_batches
        self.order = order
        self.scaling = scaling
        self.blocks = blocks
        self.statistic = statistic
        self.balance = balance
        self.seed = seed
        self.result: Subcloned | None = None
        """What was done, once it was; None in a run that continues from a checkpoint."""
        self._facts: dict[str, float] = {}

    def inputs(self, batch: Any) -> Mapping[str, Tensor]:
        """Keyword arguments of the parent for one training batch; override for batches of another form."""
        return model_inputs(batch)

    def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
        destination = find_transformer(module)
        if not _continues(module):
            config = parent_config(self.parent, self.gguf_file)
            check_fit(config, destination.config)
            check_output_layer(config, destination)

    def prepare(self, module: nn.Module) -> None:
        if _continues(module):
            return
        trainer = getattr(module, "_trainer", None)
        destination = find_transformer(module)
        parent, absent = load_parent(self.parent, type(destination), self.gguf_file)
        if trainer is not None and not isinstance(self.parent, nn.Module):
            parent.to(trainer.strategy.root_device)
        # Drawing batches must not move the random numbers that training goes on with. Every process draws the same,
        # unless its loader gives each its share: then DDP makes all of them start from what the first one measured.
        with isolate_rng(include_cuda=False):
            torch.default_generator.manual_seed(self.seed)
            batches = None
            if needs_batches(self.order, self.scaling, self.blocks):
                batches = [self.inputs(b) for b in islice(_training_batches(trainer), self.calibration_batches)]
            self.result = subclone(
                parent,
                destination,
                batches,
                order=self.order,
                scaling=self.scaling,
                blocks=self.blocks,
                statistic=self.statistic,
                balance=self.balance,
                seed=self.seed,
                absent=absent,
            )
        self._facts = {
            "compress/parent_parameters": float(self.result.parent_parameters),
            "compress/kept_share": self.result.kept_parameters / self.result.parent_parameters,
            "compress/calibration_seconds": self.result.seconds,
        }

    def finalize(self, module: nn.Module) -> nn.Module:
        return module

    def report(self, module: nn.Module) -> dict[str, float]:
        return dict(self._facts)

    def state_dict(self) -> dict[str, Any]:
        return {"facts": dict(self._facts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._facts = dict(state_dict["facts"])


def _training_batches(trainer: Trainer | None) -> Iterator[Any]:
    if trainer is None:
        raise ValueError("importance is measured on training batches: it needs a Trainer with data")
    # Its data is set up by now, but for what the module itself makes in its own setup. Without a data module only this
    # private attribute knows whether fit was given loaders: it holds them, or else the module. (``setup_data`` and
    # ``train_dataloader`` of the Trainer are public, but would take the batches out of the training's own loader.)
    source: Any = trainer.datamodule or trainer.fit_loop._data_source.instance  # type: ignore[attr-defined]
    loader = source.train_dataloader() if hasattr(source, "train_dataloader") else source
    while isinstance(loader, (list, tuple, Mapping)):
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
    yield from loader


def _continues(module: nn.Module) -> bool:
    """Whether it is known that a checkpoint will overwrite all weights right after setup."""
    trainer = getattr(module, "_trainer", None) if isinstance(module, LightningModule) else None
    return trainer is not None and trainer.ckpt_path is not None
