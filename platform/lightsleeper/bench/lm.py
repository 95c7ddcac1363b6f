"""`lightning bench lm`: what fewer bits and zeros cost a language model, and what they save.

One model, each way of `lm_arms`; the test documents of `LocalText` (by default the Python standard library's sources),
which no training here sees. Every training has the same start, batches, steps and learning rates. What is judged is
what the written file holds. Without --parent the model is a run of the recipe `lm_small`, trained in float32, so that
no way is judged on weights which somebody else has rounded before.
"""

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightsleeper.bench.conditions import conditions, torch_threads
from lightsleeper.bench.lm_arms import ARMS, TRAININGS, Callbacks
from lightsleeper.bench.lm_report import render, summarize
from lightsleeper.data.local_text import LocalText
from lightsleeper.data.tokens import BYTE_TOKENS
from lightsleeper.deploy.export import TOKENIZER, TRANSFORMERS
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import content_hash, gguf_parts, gzip_bytes, write_json
from lightsleeper.metrics.choices import BASELINES
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper.run_folder import ARCHITECTURE, EXPORT


@dataclass(frozen=True)
class Settings:
    steps: int = 150
    """Optimizer steps of every training; the last of them end a cosine."""
    rate: float = 3e-4
    warmup: int = 10
    context: int = 256
    """Tokens a sample, in training and test."""
    batch: int = 16
    """Samples a step."""
    documents: int | None = None
    """Test documents; None is all."""
    document_tokens: int = 2048
    """The first so many of each."""
    items: int | None = 500
    """Multiple-choice items of the test documents (`data.choices`); None: no such test."""
    seed: int = 7


SMALL = Settings()
"""For models such as `lm_small`: the steps of the recipe `lm_edkm`."""
LARGE_PARAMETERS = 20_000_000
LARGE = Settings(steps=100, rate=5e-5, batch=2, documents=60, document_tokens=256, items=None)
"""For a model of a hundred million weights, on one core: steps of seconds."""
QUICK = Settings(steps=6, warmup=1, context=128, batch=4, documents=8, document_tokens=128, items=40)


def chosen(parameters: int, args: Any) -> Settings:
    """Settings for a model of so many parameters, with what the command line says."""
    settings = QUICK if args.quick else SMALL if parameters < LARGE_PARAMETERS else LARGE
    if args.steps:
        settings = replace(settings, steps=args.steps, warmup=min(settings.warmup, args.steps // 5 + 1))
    given = {name: getattr(args, name) for name in ("documents", "items") if getattr(args, name)}
    return replace(settings, **given)


def run(args: Any) -> dict[str, Any]:
    """Measure what is not in ``--out`` yet, print the table, return all numbers. Raises UserError."""
    if unknown := [name for name in args.only or () if name not in ARMS]:
        raise UserError(f"bench lm has no '{unknown[0]}'.{did_you_mean(unknown[0], ARMS)}")
    with torch_threads(args.threads or torch.get_num_threads()), _folder(args.out) as folder:
        source = args.parent or str(_trained_here(folder, args.quick))
        bench = Bench(source, folder, args)
        for name in args.only or ARMS:
            bench.measure(name)
        result = {
            "model": bench.facts(),
            "settings": asdict(bench.settings),
            "conditions": conditions(torch.get_num_threads(), dtype="float32"),
            "arms": {name: row for name in ARMS if (row := bench.stored(name))},
        }
    result["summary"] = summarize(result["arms"])
    print(render(result))
    return result


class Bench:
    """Ways of one model under one setting, each kept as a JSON file."""

    def __init__(self, source: str, folder: Path, args: Any) -> None:
        self.source, self.settings = source, SMALL  # until the model's size is known
        self.run = (Path(source) / EXPORT).is_dir() or (Path(source) / ARCHITECTURE).is_file()
        model = self._model()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.settings = settings = chosen(self.parameters, args)
        self.sizes = f"{model.net.config.model_type} {_sizes(model)}"
        byte_level = model.text_config.vocab_size == BYTE_TOKENS
        self.data = LocalText(
            tokenizer=None if byte_level else _tokenizer(source, self.run),
            context_tokens=settings.context,
            batch_size=settings.batch,
            eval_batch_size=8,
            eval_documents=settings.documents,
            eval_document_tokens=settings.document_tokens,
            choice_items=settings.items,
            seed=settings.seed,
        )
        model.check_data(self.data)
        self.data.setup()
        key = {
            "settings": {name: value for name, value in asdict(settings).items() if value is not None},
            "weights": content_hash([_digest(value) for value in model.parameters()]),
            "data": self.data.summary()["hash"],
        }
        self.folder = folder / f"arms-{content_hash(key)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trained: tuple[str, CausalLM, Callbacks, float] | None = None

    def facts(self) -> dict[str, Any]:
        """What the model is."""
        counts = self.data.summary()["counts"]["test"]
        folder, file = gguf_parts(self.source)
        return {
            "source": self.source,
            "sizes": self.sizes,
            "parameters": self.parameters,
            "source_bytes": None if file is None else (Path(folder) / file).stat().st_size,
            "documents": counts["scored_documents"],
            "tokens": counts["scored_tokens"],
        }

    def stored(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def measure(self, name: str) -> None:
        """Train where it has to be, write the file, judge it, keep the numbers."""
        if self.stored(name) is not None:
            return
        arm = ARMS[name]
        model, callbacks, step_s = self._start(arm.training)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "model.safetensors"
            shipped, facts = arm.ship(model, callbacks, path)
            size = {"bytes": path.stat().st_size, "gzip_bytes": gzip_bytes(path)}
        shipped_s = time.perf_counter() - started
        judged = self._judge(shipped)
        row = {
            "label": arm.label,
            **size,
            **judged,
            "payload_bytes": facts["payload_bytes"],
            "bits": 8 * facts["payload_bytes"] / self.parameters,
            "zeros": _zeros(shipped),
            "step_s": step_s,
            "ship_s": shipped_s,
        }
        write_json(self.folder / f"{name}.json", row)
        nats, tokens, size_of_text = (sum(column) for column in zip(*judged["documents"], strict=True))
        print(
            f"  {arm.label}: {size['bytes'] / 1e6:.2f} MB, {nats / tokens:.3f} nats a token, "
            f"{nats / size_of_text / 0.693147:.3f} bits per byte",
            flush=True,
        )

    def _start(self, training: str | None) -> tuple[CausalLM, Callbacks, float | None]:
        """The model that an arm ships, its own copy, the callbacks it was trained with and the seconds of a step."""
        if training is None:
            return self._model().eval(), {}, None
        if self._trained is None or self._trained[0] != training:
            self._trained = None  # its memory
            self._trained = (training, *self._fit(TRAININGS[training]()))
        _, model, callbacks, seconds = self._trained
        if callbacks:
            return model.eval(), callbacks, seconds  # finalizing copies
        copy = self._model()
        copy.load_state_dict(model.state_dict())
        return copy.eval(), {}, seconds

    def _fit(self, callbacks: Callbacks) -> tuple[CausalLM, Callbacks, float]:
        L.seed_everything(self.settings.seed, verbose=False)
        model = self._model().train()
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*does not have many workers.*|.*litlogger.*|.*log_every_n_steps.*|.*treespec.*"
            )
            L.Trainer(
                accelerator="cpu",
                max_epochs=1,
                limit_train_batches=self.settings.steps,
                limit_val_batches=0,
                callbacks=list(callbacks.values()),
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(model, datamodule=self.data)
        return model, callbacks, (time.perf_counter() - started) / self.settings.steps

    def _model(self) -> CausalLM:
        start = {"init_from": self.source} if self.run else {"pretrained": self.source}
        return CausalLM(
            **start,  # type: ignore[arg-type]
            lr=self.settings.rate,
            warmup_steps=self.settings.warmup,
            weight_decay=0.0,
        )

    @torch.inference_mode()
    def _judge(self, model: CausalLM) -> dict[str, Any]:
        """Nats, tokens and bytes of each test document; what was chosen of each multiple-choice item."""
        model.eval().forget()
        loaders = self.data.test_dataloader()
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            for batch in loader:
                model.observe(batch)
        found: dict[str, Any] = {"documents": model.metrics.by_document().tolist()}
        if model.choices.seen:
            values = model.choices.results("", intervals=False)
            baselines = {name: values[f"{name}_accuracy"].value for name in BASELINES}
            found |= {"choices": model.choices.details(), "baselines": baselines}
        return found


def _trained_here(folder: Path, quick: bool) -> Path:
    """The run of `lm_small` in ``folder``, trained first where it is not there."""
    from lightsleeper.bench.trainings import FIRST_SEED, Arm, Training, train

    fewer = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=30") if quick else ()
    same = ("--run.stages=[fit,finalize]", "--run.formats=[packed]", "--tracking.mode=disabled")
    overrides = (*fewer, *same, f"--run.threads={torch.get_num_threads()}")
    return train(Training(Arm("lm_small", "lm_small", (), "lm_small"), FIRST_SEED, overrides), folder)


def _tokenizer(source: str, run: bool) -> str:
    if not run:
        return source
    for folder in (Path(source) / EXPORT, Path(source)):
        for name in (TRANSFORMERS, TOKENIZER):
            if (folder / name).is_dir():
                return str(folder / name)
    raise UserError(f"--parent {source} has no tokenizer: its run wrote neither format transformers nor packed.")


def _zeros(model: CausalLM) -> float:
    """Share of all weights."""
    weights = list(model.parameters())
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _digest(value: torch.Tensor) -> list[float]:
    """Enough to tell two models apart."""
    flat = value.detach().flatten().double()
    return [float(flat.sum()), float(flat.square().sum())]


def _sizes(model: CausalLM) -> str:
    config = model.text_config
    return f"{config.num_hidden_layers} x {config.hidden_size}"


@contextmanager
def _folder(out: str | None) -> Iterator[Path]:
    """``--out``, or a temporary folder."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="lightsleeper-") as made:
        yield Path(made)
