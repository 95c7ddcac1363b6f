"""The `run` and `tracking` sections of a recipe. Field texts are what `lightning explain` shows."""

from dataclasses import dataclass, field
from typing import Literal

from lightsleeper.deploy.formats import FormatName
from lightsleeper.errors import UserError

Stage = Literal["fit", "finalize", "test", "export", "benchmark"]
STAGES: tuple[Stage, ...] = ("fit", "finalize", "test", "export", "benchmark")


@dataclass
class RunConfig:
    """What a run does after the recipe was checked.

    Raises UserError for a stage named twice or out of order, no stage at all, and counts below one.
    """

    stages: list[Stage] = field(default_factory=lambda: list(STAGES))
    """Stages to go through, in this order: fit, finalize, test, export, benchmark. Later ones need the model of fit."""
    formats: list[FormatName] = field(default_factory=lambda: ["onnx"])
    """File formats the finalized model is exported to: onnx; packed, its weights with clustered ones as tables and
    indices of a few bits; coreml, a zipped package, palettised; transformers, a folder for `from_pretrained`;
    onnx_int8 and litert_int8, wake words quantised for small devices, judged on the test streams."""
    monitor: str | None = None
    """Validation metric that picks the checkpoint to ship, such as val/auc_hard. None ships the last epoch."""
    mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller value of `monitor` is better."""
    threads: int | None = None
    """CPU threads that PyTorch uses in fit and test. None keeps PyTorch's own choice, one per core."""
    parity_inputs: int = 64
    """Random inputs on which the exported file must equal the finalized model."""
    benchmark_threads: list[int] = field(default_factory=lambda: [1])
    """Thread counts at which the exported file is timed; the first one is the headline latency."""

    def __post_init__(self) -> None:
        order = [STAGES.index(stage) for stage in self.stages]
        if not order or order != sorted(set(order)):
            raise UserError(f"stages: expected each at most once, in the order {', '.join(STAGES)}; got {self.stages}.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads: expected at least 1, got {self.threads}.")
        if self.parity_inputs < 1:
            raise UserError(f"parity_inputs: expected at least 1, got {self.parity_inputs}.")
        if not self.benchmark_threads or min(self.benchmark_threads) < 1:
            raise UserError(f"benchmark_threads: expected thread counts of at least 1, got {self.benchmark_threads}.")


@dataclass
class TrackingConfig:
    """Where Weights & Biases files the run."""

    project: str = "lightsleeper"
    """W&B project."""
    entity: str | None = None
    """W&B user or team. None is the default of the account."""
    group: str | None = None
    """W&B group. None groups runs that differ in their seed only."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto logs online with a key and a network, offline otherwise; disabled keeps the local record only."""
    notes: str | None = None
    """Free text shown beside the run in W&B."""
