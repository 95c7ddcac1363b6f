"""`lightning bench choices`: answering multiple-choice items by likelihood, against reading them as `lm-eval` does.

speed: the same items with shared contexts, each choice with a context of its own, so but one item at a time, and by
lm-eval where it is installed; tokenizing included, in turns, with what all of them found beside it. accuracy: all
items, beside the baselines that do not read. Items are continuations of held-out sources of the standard library
(`data.choices`).
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightsleeper.bench.conditions import chosen_parts, conditions, torch_threads
from lightsleeper.bench.timing import in_turns, shown, spread
from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import Item, continuations
from lightsleeper.data.documents import read_files, standard_library
from lightsleeper.data.tokens import byte_tokenizer
from lightsleeper.errors import UserError
from lightsleeper.metrics.choices import ChoiceMetrics
from lightsleeper.models import hub
from lightsleeper.models.choice_scoring import log_likelihoods, scored_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PARTS = ("speed", "accuracy")
SMALL: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 257, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 3, "intermediate_size": 512, "max_position_embeddings": 512,
}  # fmt: skip
SHARED, OWN, ONE, LM_EVAL = "shared context", "own contexts", "one item at a time", "lm-eval"
HELD_OUT = 0.1  # of the documents, as LocalText

Score = Callable[[Sequence[Item]], Tensor]
"""Items to the log-likelihoods of all their choices, in order."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen parts, print them, return all numbers. Raises UserError for an unknown part or model."""
    parts = chosen_parts("choices", args.part, PARTS)
    threads = args.threads or torch.get_num_threads()
    net, tokenizer = _model(args.parent)
    documents = read_files(standard_library()).split(HELD_OUT, HELD_OUT)["test"]
    items = continuations(documents, args.items or (60 if args.quick else 600))
    timed = items[: args.timed or (16 if args.quick else 60)]
    name = args.parent or "random weights of lm_small's sizes"
    told = conditions(threads, model=name, items=len(items), timed=len(timed), batch=args.batch)
    result: dict[str, Any] = {"quick": args.quick, "conditions": told}
    print("choices: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    with torch_threads(threads), torch.inference_mode():
        if "speed" in parts:
            result["speed"] = speed(net, tokenizer, timed, args.batch, args.repeats or 3)
            print("\n" + "\n".join(render_speed(result["speed"])))
        if "accuracy" in parts:
            result["accuracy"] = accuracy(net, tokenizer, items, args.batch)
            print("\n" + "\n".join(render_accuracy(result["accuracy"])))
    return result


def speed(
    net: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast", items: Sequence[Item], batch: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """By way of reading: seconds, positions that the network computed, and how far it is from one at a time."""

    def ours(size: int, share: bool) -> Score:
        return lambda items: scored(net, tokenizer, items, size, share)

    ways = {SHARED: ours(batch, True), OWN: ours(batch, False), ONE: ours(1, False)}
    if find_spec("lm_eval") is not None:
        ways[LM_EVAL] = lm_eval_scorer(net, tokenizer, batch * len(items[0].choices))
    found, positions = {}, {}
    for name, way in ways.items():
        with counted(net) as seen:
            found[name] = way(items)
        positions[name] = sum(seen)
    taken = in_turns({name: partial(way, items) for name, way in ways.items()}, repeats, warm_up=0)
    return {
        name: {
            "seconds": spread([ms / 1e3 for ms in taken[name]]),
            "positions": positions[name],
            "difference": float((found[name] - found[ONE]).abs().max()),
            "same_choice": float((chosen(found[name], items) == chosen(found[ONE], items)).float().mean()),
        }
        for name in ways
    }


def scored(
    net: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast", items: Sequence[Item], batch: int, share: bool
) -> Tensor:
    """Nats of all choices (n,), in the order of the items."""
    found: list[Tensor] = [torch.empty(0)] * len(items)
    for rows in ChoiceRows(items, tokenizer, _window(net)).loader(batch):
        nats = log_likelihoods(net, rows, share)
        for place, number in enumerate(rows["numbers"].tolist()):
            found[number] = nats[rows["item"] == place]
    return torch.cat(found)


def lm_eval_scorer(net: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast", rows: int) -> Score:
    """lm-eval's own reading of ``rows`` choices at once, with the same network."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(net, tokenizer=tokenizer, batch_size=rows)

    def score(items: Sequence[Item]) -> Tensor:
        pairs = [(item.context, choice) for item in items for choice in item.choices]
        asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
        return torch.tensor([nats for nats, _ in model.loglikelihood(asked, disable_tqdm=True)])

    return score


def accuracy(
    net: PreTrainedModel, tokenizer: "PreTrainedTokenizerFast", items: Sequence[Item], batch: int
) -> dict[str, Any]:
    """By name of `ChoiceMetrics`, value and interval."""
    metric = ChoiceMetrics()
    for rows in ChoiceRows(items, tokenizer, _window(net)).loader(batch):
        told = (rows[name] for name in ("bytes", "item", "answers", "groups", "numbers"))
        metric.update(log_likelihoods(net, rows), scored_tokens(rows), *told)
    return {name: value.to_dict() for name, value in metric.results("").items()}


def chosen(nats: Tensor, items: Sequence[Item]) -> Tensor:
    """The likeliest choice of each item (B,)."""
    return torch.stack([mine.argmax() for mine in nats.split([len(item.choices) for item in items])])


@contextmanager
def counted(net: PreTrainedModel) -> Iterator[list[int]]:
    """Fills a list with the positions of every forward pass, padding included."""
    seen: list[int] = []

    def count(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        seen.append((args[0] if args else options["input_ids"]).numel())

    handle = net.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def render_speed(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    base = LM_EVAL if LM_EVAL in found else OWN
    titles = f"{'seconds, least-largest':>26}{'positions':>11}{'same choice':>13}{'apart, nats':>13}"
    yield f"{'':20}{titles}  against {base}"
    for name, row in found.items():
        seconds = shown(row["seconds"], 2, ("min", "max"))
        yield (
            f"{name:20}{seconds:>26}{row['positions']:>11}{row['same_choice']:>13.3f}{row['difference']:>13.1e}"
            f"{found[base]['seconds']['median'] / row['seconds']['median']:>8.2f} x as fast"
        )


def render_accuracy(found: dict[str, Any]) -> Iterator[str]:
    from lightsleeper.tracking.page import measured

    for name, value in found.items():
        yield f"{name:22}{measured(value)}"


def _model(parent: str | None) -> tuple[PreTrainedModel, "PreTrainedTokenizerFast"]:
    """A network and its tokenizer: of a hub name, folder or GGUF file; without one random weights that read bytes."""
    if parent is None:
        torch.manual_seed(0)
        return hub.created(AutoModelForCausalLM, SMALL).eval(), byte_tokenizer()
    net = hub.pretrained(AutoModelForCausalLM, parent).eval()
    if (tokenizer := hub.tokenizer_of(parent)) is None:
        raise UserError(f"--parent {parent} has no tokenizer.")
    return net, tokenizer


def _window(net: PreTrainedModel) -> int | None:
    return getattr(net.config.get_text_config(), "max_position_embeddings", None)
