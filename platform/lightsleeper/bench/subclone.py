"""`lightning bench subclone`: how much sooner a subcloned start reaches the loss that a random one ends with.

Every start trains the same small model for the same number of tokens, in the same order, with the same schedule
(warm-up, cosine to a tenth). Each has the same grid of learning rates: all are tried with the first seed, the best one
is repeated with the others. Calibration counts, in tokens and in seconds; evaluation does not. Losses are nats a token
on held-out files. The parent is a byte-level model trained here on the standard library's sources, unless one is given.
"""

import json
import math
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightsleeper_callbacks.subclone import load_parent, needs_batches, subclone
from lightsleeper_callbacks.subclone_wiring import resized
from torch import Tensor

from lightsleeper.bench.conditions import chosen_parts, conditions, torch_threads
from lightsleeper.bench.subclone_report import QUARTER, RANDOM, SUBCLONED, render, summarize
from lightsleeper.data.python_sources import read_text, standard_library
from lightsleeper.errors import UserError
from lightsleeper.files import gguf_parts, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SPEED: dict[str, dict[str, Any] | None] = {RANDOM: None, SUBCLONED: {}, QUARTER: {}}
ABLATION: dict[str, dict[str, Any]] = {
    "random neurons": {"order": "random"},
    "first neurons": {"order": "first"},
    "by variance": {"statistic": "variance"},
    "blocks weighed alike": {"balance": True},
    "no scaling": {"scaling": "none"},
    "measured scaling": {"scaling": "measured"},
    "first blocks": {"blocks": "first"},
    "strided blocks": {"blocks": "strided"},
    "blocks by score": {"blocks": "score"},
    "first of all, unscaled": {"order": "first", "blocks": "first", "scaling": "none"},  # weight selection
}
PARTS = ("speed", "ablation")
MASKED = 0.15  # of the tokens, for models that read both ways


@dataclass(frozen=True)
class Settings:
    parent: str | None = None
    """Folder or hub name; None trains one."""
    parent_width: int = 128
    parent_depth: int = 6
    parent_tokens: int = 4_000_000
    parent_rate: float = 3e-3
    budget: int = 700_000
    """Tokens of every training."""
    rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
    length: int = 128
    """Tokens a sample."""
    batch: int = 32
    """Samples a step."""
    evaluations: int = 32
    """On the way, denser at the start: a subcloned model is there early."""
    evaluation_samples: int = 64
    calibration_batches: int = 8
    characters: int | None = None
    """Of the text that is read; None is all."""

    @property
    def steps(self) -> int:
        return self.budget // (self.batch * self.length)


FULL = Settings()
QUICK = Settings(
    parent_width=64,
    parent_depth=4,
    parent_tokens=400_000,
    budget=130_000,
    rates=(2e-3, 8e-3),
    length=64,
    evaluations=16,
    evaluation_samples=32,
    calibration_batches=4,
    characters=2_000_000,
)
GIVEN = Settings(
    budget=100_000,
    rates=(5e-4, 2e-3),
    batch=8,
    evaluations=20,
    evaluation_samples=32,
    characters=4_000_000,
)


def run(args: Any) -> dict[str, Any]:
    """Train what is not in ``--out`` yet, print the tables, return all numbers. Raises UserError."""
    parts = chosen_parts("subclone", args.part or (["speed"] if args.parent else None), PARTS)
    settings = QUICK if args.quick else FULL
    if args.parent:
        settings = replace(GIVEN, parent=args.parent)
        if args.quick:  # of a hundred million weights an evaluation costs as much as steps do
            settings = replace(settings, budget=20_000, evaluations=8, evaluation_samples=16)
    seeds = 1 if args.quick and args.seeds == 3 else args.seeds
    starts = {**SPEED, **(ABLATION if "ablation" in parts else {})}
    with torch_threads(args.threads or torch.get_num_threads()), _folder(args.out) as folder:
        bench = Bench(settings, folder)
        rows = {name: bench.start(name, options, seeds) for name, options in starts.items()}
        result = {
            "settings": asdict(settings),
            "seeds": seeds,
            "conditions": conditions(torch.get_num_threads(), dtype="float32"),
            "parent": bench.facts(),
            "starts": summarize(rows, settings.rates, settings.batch * settings.length),
            "trainings": [training for runs in rows.values() for training in runs],
        }
    print(render(result))
    return result


class Bench:
    """Trainings of one setting, each kept as a JSON file."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        from transformers import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # notes on loss types and generation settings
        self.settings = settings
        text = "".join(path.name for part in standard_library() for path in part) + platform.python_version()
        key = json.dumps([asdict(settings), text, torch.get_num_threads()], sort_keys=True)
        self.folder = folder / sha256(key.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.absent: tuple[str, ...] = ()
        self.mask_token: int | None = None
        if settings.parent is None:
            self.train, self.held_out = (_bytes(read_text(part)[: settings.characters]) for part in standard_library())
            self.parent = self._own_parent()
        else:
            self.parent, self.absent, encode = _given(settings.parent)
            self.mask_token = encode.mask_token_id
            texts = (read_text(part)[: settings.characters] for part in standard_library())
            self.train, self.held_out = (
                torch.tensor(encode(text, add_special_tokens=False)["input_ids"]) for text in texts
            )
        self.config = _half(self.parent.config)

    def _own_parent(self) -> "PreTrainedModel":
        from transformers import LlamaConfig, LlamaForCausalLM

        settings, path = self.settings, self.folder / "parent"
        heads = settings.parent_width // 32
        config = LlamaConfig(
            vocab_size=256,
            hidden_size=settings.parent_width,
            intermediate_size=settings.parent_width * 8 // 3,
            num_hidden_layers=settings.parent_depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=settings.length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        if (path / "training.json").is_file():
            return load_parent(path)[0]
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        steps = settings.parent_tokens // (settings.batch * settings.length)
        done = self._fit(model, settings.parent_rate, 1000, steps, "parent")
        model.save_pretrained(path)
        write_json(path / "training.json", done)
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """What the parent and the destination are."""
        from transformers import AutoModel

        with torch.device("meta"):
            small = AutoModel.from_config(self.config)
        trained = self.folder / "parent" / "training.json"
        return {
            "kind": self.parent.config.model_type,
            "parameters": sum(p.numel() for p in self.parent.parameters()),
            "loss": self._evaluate(self.parent),
            "seconds": json.loads(trained.read_text())["seconds"] if trained.is_file() else None,
            "sizes": _sizes(self.parent.config),
            "destination_sizes": _sizes(self.config),
            "destination_parameters": sum(p.numel() for p in small.parameters()),
        }

    def start(self, name: str, options: Mapping[str, Any] | None, seeds: int) -> list[dict[str, Any]]:
        """All rates with the first seed, the best of them with the others."""
        runs = [self._training(name, options, rate, 0) for rate in self.settings.rates]
        best = min(runs, key=lambda run: run["losses"][-1])["rate"]
        return runs + [self._training(name, options, best, seed) for seed in range(1, seeds)]

    def _training(self, name: str, options: Mapping[str, Any] | None, rate: float, seed: int) -> dict[str, Any]:
        path = self.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{rate:g}-{seed}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        torch.manual_seed(seed)
        model = type(self.parent)(self.config)
        calibration = {"tokens": 0, "seconds": 0.0}
        if options is not None:
            choice = {"order": "importance", "scaling": "sqrt", "blocks": "middle", **options}
            batches = None
            if needs_batches(choice["order"], choice["scaling"], choice["blocks"]):
                drawn = self._samples(self.train, 2000 + seed, self.settings.calibration_batches)
                batches = [{"input_ids": ids} for ids in drawn]
                calibration["tokens"] = sum(batch["input_ids"].numel() for batch in batches)
            done = subclone(self.parent, model, batches, seed=seed, absent=self.absent, **choice)
            calibration["seconds"] = done.seconds
        steps = self.settings.steps // (4 if name == QUARTER else 1)
        found = self._fit(model, rate, seed, steps, f"{name}, rate {rate:g}, seed {seed}")
        training = {"start": name, "rate": rate, "seed": seed, "calibration": calibration, **found}
        write_json(path, training)
        return training

    def _fit(self, model: "PreTrainedModel", rate: float, seed: int, steps: int, label: str) -> dict[str, Any]:
        """Train; held-out losses over tokens and over seconds of training."""
        settings = self.settings
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_warm_cosine, steps=steps))
        count = settings.evaluations
        stops = {math.ceil(steps * (number / count) ** 1.5) for number in range(1, count + 1)}
        tokens, seconds, losses = [0], [0.0], [self._evaluate(model)]
        spent = 0.0
        model.train()
        for step, ids in enumerate(self._samples(self.train, seed, steps), 1):
            started = time.perf_counter()
            loss = self._loss(model, ids, step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            spent += time.perf_counter() - started
            if step in stops:
                tokens.append(step * ids.numel())
                seconds.append(spent)
                losses.append(self._evaluate(model))
        print(f"  {label}: {losses[0]:.3f} -> {losses[-1]:.3f} nats in {spent:.0f} s", flush=True)
        return {"tokens": tokens, "seconds": seconds, "losses": losses}

    def _samples(self, text: Tensor, seed: int, count: int) -> Iterator[Tensor]:
        """``count`` batches (batch, length) of random windows; the same for every start with the same seed."""
        generator = torch.Generator().manual_seed(seed)
        window = torch.arange(self.settings.length)
        for _ in range(count):
            starts = torch.randint(len(text) - self.settings.length, (self.settings.batch, 1), generator=generator)
            yield text[starts + window].long()

    def _loss(self, model: "PreTrainedModel", ids: Tensor, number: int) -> Tensor:
        """Of the next token, or of masked tokens for a model that reads both ways; ``number`` draws the mask."""
        if self.mask_token is None:
            return model(input_ids=ids, labels=ids).loss
        mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(number)) < MASKED
        return model(input_ids=ids.masked_fill(mask, self.mask_token), labels=ids.masked_fill(~mask, -100)).loss

    @torch.no_grad()
    def _evaluate(self, model: "PreTrainedModel") -> float:
        """Mean loss on evenly spread windows of the held-out files."""
        training = model.training
        model.eval()
        count, length = self.settings.evaluation_samples, self.settings.length
        places = torch.linspace(0, len(self.held_out) - length - 1, count).long()
        rows = self.held_out[places[:, None] + torch.arange(length)].long()
        losses = []
        for number, ids in enumerate(rows.split(self.settings.batch)):
            losses.append(float(self._loss(model, ids, number)) * len(ids))
        model.train(training)
        return sum(losses) / count


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min((step - warm) / max(steps - warm, 1), 1.0)))


def _sizes(config: "PreTrainedConfig") -> str:
    return f"{config.num_hidden_layers} x {config.hidden_size}"


def _half(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Half the blocks and half the width; heads follow where they can, else half of them, rounded down.

    A family whose heads make up the width gets the widest legal one that is no wider than half.
    """
    half, depth = config.hidden_size // 2, max(config.num_hidden_layers // 2, 1)
    choices: list[tuple[int, int | None]] = [(half, None), (half, max(config.num_attention_heads // 2, 1))]
    for width, heads in [*choices, *((width, None) for width in range(half - 1, 0, -1))]:
        try:
            return resized(config, width=width, depth=depth, heads=heads)
        except ValueError:
            continue
    raise UserError(f"no smaller {config.model_type} model keeps the parent's head width.")


def _given(parent: str) -> tuple["PreTrainedModel", tuple[str, ...], Any]:
    """Model, what its files lack and tokenizer, from a folder (GGUF too) or the hub; BERT as a masked one."""
    import transformers
    from lightsleeper_callbacks.subclone import parent_config

    from lightsleeper.models.hub import tokenizer_of

    parent, gguf = gguf_parts(parent)
    try:
        masked = parent_config(parent, gguf).model_type == "bert"
        kind: Any = transformers.BertForMaskedLM if masked else transformers.AutoModelForCausalLM
        model, absent = load_parent(parent, kind, gguf)
    except ValueError as error:
        raise UserError(f"--parent: {error}.") from error
    encode = tokenizer_of(parent, gguf)
    if encode is None:
        raise UserError(f"--parent {parent} has no tokenizer.")
    return model, absent, encode


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


@contextmanager
def _folder(out: str | None) -> Iterator[Path]:
    """``--out``, or a temporary folder."""
    if out is not None:
        yield Path(out)
    else:
        with tempfile.TemporaryDirectory(prefix="lightsleeper-") as made:
            yield Path(made)
