"""What `lightning ttft` does with the ranks: choose a split, time every method in turns, and tell what came of it."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash
from lightsleeper.generation import table as tables
from lightsleeper.generation import timeline
from lightsleeper.generation.layout import inspect
from lightsleeper.generation.measure import Plan, Timing, ceiling, decode, prefill_once, time_plans, ttft
from lightsleeper.generation.ranks import Ranks
from lightsleeper.generation.search import GRANULARITY, search
from lightsleeper.generation.split import Split, checked, effective_ranks, even
from lightsleeper.generation.transport import TIMEOUT_S, SlowLink
from lightsleeper.generation.work import critical, flops_of

STEPS = 32  # of a prompt: a finer grid than its 32nd part is within the noise of two runs
NAMES = {
    "chain": "KV-Runahead",
    "one": "one process",
    "chunked": "one process, chunks",
    "gather": "all-gather, dense",
    "gather-skip": "all-gather, causal",
}


@dataclass(frozen=True)
class Settings:
    """How to measure; see `lightning ttft --help`."""

    ranks: int = 2
    threads: int = 1
    backend: str = "gloo"
    device: str = "cpu"
    timeout_s: float = TIMEOUT_S
    link: SlowLink | None = None
    methods: tuple[str, ...] | list[str] = ("chain",)
    split: str = "even"
    table: Path | None = None
    chunk: int = 512
    new_tokens: int = 20
    repeats: int = 10
    warm_up: int = 3
    search_repeats: int = 3
    """Prefills of each split that a search tries; their median counts."""


class Session:
    """Ranks around one model. Raises UserError, before they start, for a model that cannot be prefilled in parts."""

    def __init__(self, model: PreTrainedModel, settings: Settings, say: Callable[[str], None] = print) -> None:
        self.model, self.settings, self.say = model, settings, say
        self.layout = inspect(model)
        self.flops = flops_of(model, self.layout)
        link = "as it is" if settings.link is None else str(settings.link)
        self.conditions = tables.conditions(
            model, settings.ranks, settings.threads, settings.backend, settings.device, link
        )
        if settings.split == "predicted":
            self._table()  # refused before the ranks start
        self._ranks = Ranks(
            model,
            settings.ranks,
            threads=settings.threads,
            backend=settings.backend,
            device=settings.device,
            timeout_s=settings.timeout_s,
            link=settings.link,
        )

    def __enter__(self) -> "Session":
        self._ranks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._ranks.close()

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    def measure(
        self, ids: Tensor, picture: Path | None = None, more: Mapping[str, Split] | None = None
    ) -> dict[str, Any]:
        """Time all methods on one prompt (1, C), print the table, draw the chain; returns every number.

        ``more``: further splits of the chain by name, timed in the same turns.
        """
        settings, tokens = self.settings, ids.shape[1]
        split = self.choose(ids)
        plans = self.plans(split, tokens)
        plans |= {name: Plan("chain", len(other), other) for name, other in (more or {}).items()}
        timings = time_plans(self._ranks, plans, ids, settings.repeats, settings.warm_up)
        limit = ceiling(self._ranks, ids, 2) if settings.ranks > 1 else 1.0
        result = self._result(timings, split, tokens, limit)
        self._tell(result)
        if "chain" in timings:
            plan = timings["chain"].plan
            made, rate = self._ranks.call(decode, plan, ids, self._new_tokens(tokens))[len(split) - 1]
            result |= {"continuation": made, "decode_tokens_per_s": rate}
            if rate is not None:
                self.say(f"decode after it: {rate:.1f} tokens/s on rank {len(split) - 1}")
            if picture is not None:
                title = f"{self.conditions.model}: {tokens} tokens as {', '.join(map(str, split))}"
                timeline.draw([once.trace for once in timings["chain"].middle], picture, title)
                self.say(f"timeline: {picture}")
        return result

    def plans(self, split: Split, tokens: int) -> dict[str, Plan]:
        """By method; a gather has as many ranks as the chain, of which short prompts leave some out."""
        ranks = effective_ranks(tokens, self.settings.ranks)
        counts = {"chain": len(split), "gather": ranks, "gather-skip": ranks}
        return {
            method: Plan(method, counts.get(method, 1), split if method == "chain" else None, self.settings.chunk)  # type: ignore[arg-type]
            for method in self.settings.methods
        }

    def choose(self, ids: Tensor) -> Split:
        """The split that the settings ask for. Raises UserError for one that does not fit."""
        tokens, ranks = ids.shape[1], self.settings.ranks
        if self.settings.split == "even":
            return even(tokens, ranks)
        if self.settings.split == "predicted":
            return self._table().predict(tokens)
        if self.settings.split == "searched":
            return self.search(ids)
        return checked([int(part) for part in self.settings.split.split(",")], tokens, ranks)

    def time_split(self, ids: Tensor, split: Split, repeats: int | None = None) -> float:
        """Median time to first token of one split."""
        repeats = repeats or self.settings.search_repeats
        plan = Plan("chain", len(split), split)
        return statistics.median(ttft(self._ranks.call(prefill_once, plan, ids)) for _ in range(repeats))

    def _new_tokens(self, tokens: int) -> int:
        """As asked for, as far as the model has positions; one is the prefill's own."""
        window = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return self.settings.new_tokens if window is None else max(1, min(self.settings.new_tokens, window - tokens))

    def search(self, ids: Tensor) -> Split:
        """The best split found, which also goes into the table."""
        tokens = ids.shape[1]
        self.time_split(ids, even(tokens, self.settings.ranks), 1)  # warms up
        step = max(GRANULARITY, tokens // STEPS)
        split, tried = search(lambda split: self.time_split(ids, split), tokens, self.settings.ranks, step)
        path = self._table_path()
        table = tables.load(path, self.conditions) if path.is_file() else tables.SplitTable(self.conditions)
        table.add(split, tried[split])
        table.save(path)
        self.say(f"searched {len(tried)} splits of {tokens} tokens: {_joined(split)}; kept in {path}")
        return split

    def _table(self) -> tables.SplitTable:
        path = self._table_path()
        if not path.is_file():
            raise UserError(f"--split predicted: no table {path}; make one with --split searched at some lengths.")
        return tables.load(path, self.conditions)

    def _table_path(self) -> Path:
        key = content_hash(vars(self.conditions))
        return self.settings.table or cache_folder("splits") / f"{key}.json"

    def _result(self, timings: dict[str, Timing], split: Split, tokens: int, limit: float) -> dict[str, Any]:
        chain = timings.get("chain")
        methods = {}
        for name, timing in timings.items():
            methods[name] = {
                "ttft_s": timing.ttft,
                "median_s": timing.median,
                "wait_shares": timing.wait_shares(),
                "link_bytes": timing.links(),
                "first_token": timing.token,
                "split": timing.plan.split,
            }
            if chain is not None and timing is not chain:
                plan, ratio = timing.plan, timing.median / chain.median
                work = critical(self.flops, plan.method, tokens, plan.ranks, plan.split)
                bound = work / critical(self.flops, "chain", tokens, len(split))
                methods[name] |= {"over_chain": ratio, "bound": bound, "reached": ratio / min(bound, limit)}
        return {
            "tokens": tokens,
            "split": list(split),
            "ceiling": limit,
            "methods": methods,
            "conditions": vars(self.conditions),
            "repeats": self.settings.repeats,
        }

    def _tell(self, result: dict[str, Any]) -> None:
        shown = self.conditions
        self.say(
            f"{result['tokens']} tokens as {_joined(result['split'])}; {shown.model}, {shown.dtype}, {shown.ranks} "
            f"processes with {shown.threads} thread(s), {shown.backend}, link {shown.link}; torch {shown.torch}, "
            f"transformers {shown.transformers}; median (least-most) of {result['repeats']}"
        )
        self.say(
            f"{'':22}{'first token, s':>22}{'chain is':>10}{'bound':>8}{'ceiling':>9}{'of less':>9}   waiting, sent"
        )
        for name, found in result["methods"].items():
            times = f"{found['median_s']:.3f} ({min(found['ttft_s']):.3f}-{max(found['ttft_s']):.3f})"
            ratio = f"{'':36}"
            if "bound" in found:
                ratio = f"{found['over_chain']:>9.2f}x{found['bound']:>7.2f}x{result['ceiling']:>8.2f}x"
                ratio += f"{100 * found['reached']:>7.0f} %"
            self.say(f"{NAMES.get(name, name):22}{times:>22}{ratio}   {_shares(found)}")
        tokens = {tuple(found["first_token"]) for found in result["methods"].values()}
        if len(tokens) > 1:
            self.say(f"first tokens differ between methods, within rounding of nearly equal logits: {sorted(tokens)}")


def _joined(split: Split | list[int]) -> str:
    return "+".join(str(piece) for piece in split)


def _shares(found: dict[str, Any]) -> str:
    waits = "/".join(f"{100 * share:.1f}" for share in found["wait_shares"])
    links = ", ".join(f"{link} {size / 2**20:.1f} MiB" for link, size in found["link_bytes"].items())
    return f"{waits} %, {links}" if links else ""


def random_prompt(vocabulary: int, tokens: int, seed: int = 0) -> Tensor:
    """Ids (1, tokens): of a prompt only the length matters here."""
    return torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(seed))
