"""What a run says. The terminal gets what a user can act on; `log.txt` gets everything."""

import logging
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console, RenderableType

LIBRARIES = ("lightning.pytorch", "lightning.fabric", "py.warnings")

# Warnings of others that a user of a recipe cannot act on. They still reach log.txt.
SILENCED = tuple(
    re.compile(pattern)
    for pattern in (
        r"does not have many workers",  # the data module decides; workers cost more than they bring on small corpora
        r"smaller than the logging interval",  # epochs of a few steps are logged by epoch
        r"Checkpoint directory .* is not empty",  # a resumed run continues in its own folder
        r"in eval mode at the start of training",  # frozen text encoders stay in eval on purpose
        r"ended before the epoch ended and your dataloader is not resumable",  # ours always end between two epochs
        r"GPU available but not used",  # the recipe names the accelerator
        r"Trying to infer the `batch_size` from an ambiguous collection",  # a batch is a mapping; all share the rows
        r"enable_nested_tensor is True",  # torch's encoder on its slow path for norm_first
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6 calling torch 2.13
        r"Please use the new API settings to control TF32",  # lightning 2.6 calling torch 2.13
    )
)


class Log:
    """Terminal and `log.txt` of one run; nests, so that a required step has its own file too.

    Example:
        with Log(folder / LOG) as log:
            log.say("fit")
    """

    def __init__(self, path: Path, console: Console | None = None) -> None:
        self.path = path
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._undo = ExitStack()

    def __enter__(self) -> "Log":
        self._file = self._undo.enter_context(self.path.open("a", encoding="utf-8", buffering=1))
        self._plain = Console(file=self._file, width=120, highlight=False, no_color=True)
        everything = logging.StreamHandler(self._file)
        everything.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        actionable = logging.StreamHandler(sys.stderr)
        actionable.setLevel(logging.WARNING)
        actionable.addFilter(_worth_showing)
        actionable.setFormatter(_OneLine())
        for name in LIBRARIES:
            self._undo.enter_context(_redirected(logging.getLogger(name), [everything, actionable]))
        if warnings.showwarning.__module__ != "logging":  # else an outer run has done it
            logging.captureWarnings(True)
            self._undo.callback(logging.captureWarnings, False)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def say(self, text: RenderableType) -> None:
        """One line, or a table, to both."""
        self.console.print(text, markup=False) if isinstance(text, str) else self.console.print(text)
        if isinstance(text, str):
            self.note(text)
        else:
            self._plain.print(text)

    def note(self, text: str) -> None:
        """To `log.txt` alone."""
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=self._file)

    def failure(self, error: BaseException) -> None:
        """The traceback, to `log.txt` alone."""
        self.note("".join(traceback.format_exception(error)))


@contextmanager
def _redirected(logger: logging.Logger, handlers: list[logging.Handler]) -> Iterator[None]:
    kept = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = handlers, False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = kept[0], kept[2]
        logger.setLevel(kept[1])


def _worth_showing(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(pattern.search(text) for pattern in SILENCED)


class _OneLine(logging.Formatter):
    """`warning: what it says`, without the place in somebody else's source."""

    def format(self, record: logging.LogRecord) -> str:
        text = re.sub(r"^\S+:\d+: (\w*Warning: )?", "", record.getMessage().strip())
        return f"warning: {text.splitlines()[0]}" if text else ""


class EpochLines(Callback):
    """One line per epoch with the metrics of its end: the whole progress where no terminal is attached."""

    def __init__(self, log: Log, shown: tuple[str, ...] = ()) -> None:
        self._log = log
        self._shown = shown
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        names = [name for name in dict.fromkeys([*self._shown, *values]) if name in values]
        names = [name for name in names if not name.endswith(("_step", "_epoch"))]  # twins that Lightning adds
        texts = [f"{name} {values[name]:.4g}" for name in names[:6]]  # six fit in a line
        end = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        seconds = time.monotonic() - self._began
        self._log.say("  ".join([f"epoch {trainer.current_epoch + 1}{end}", *texts, f"({seconds:.1f} s)"]))


def _while_stopping(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt was being handled when ``error`` was raised."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM, which schedulers send, stops what is inside as Ctrl-C does: with a KeyboardInterrupt.

    Afterwards both signals do what they did before; Lightning has told the process to ignore a second Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException as error:
        # Lightning makes a SystemExit of it; torch.save, stopped inside a file, a RuntimeError.
        if not isinstance(error, KeyboardInterrupt) and _while_stopping(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
