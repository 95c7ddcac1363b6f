"""`lightning generate`: text from a trained language model, out of its packed file where there is one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import positive
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELP = (
    "Continue a text with the language model of a finished run. Where the run wrote format packed, the weights come "
    "out of that file, which they equal bit for bit."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN|PACKED", help="run folder, run id, 'last', export folder or packed file")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue")
    parser.add_argument("--new-tokens", type=positive, default=64, metavar="N", help="at most, default 64")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default: the likeliest")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of tokens drawn, default 0")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads, default one per core")
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie; default $LIGHTSLEEPER_RUNS, else ./runs")


def main(args: argparse.Namespace) -> int:
    if not 0 <= args.temperature < 100:
        raise UserError(f"--temperature: expected at least 0 and below 100, got {args.temperature}.")
    network, tokenizer, text = open_model(args.source, args.runs_dir)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    inputs = tokenizer(args.prompt, return_tensors="pt", add_special_tokens=False)
    given = inputs["input_ids"].shape[1]
    window = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if not given:
        raise UserError("--prompt is empty.")
    if window is not None and given + args.new_tokens > window:
        raise UserError(f"{given} tokens and {args.new_tokens} new ones: the model has positions for {window}.")
    drawn = {"do_sample": True, "temperature": args.temperature} if args.temperature else {"do_sample": False}
    ids = network.generate(**inputs, max_new_tokens=args.new_tokens, **drawn)[0]  # type: ignore[operator]
    print(args.prompt + tokenizer.decode(ids[given:], skip_special_tokens=True))
    print(f"({len(ids) - given} tokens; {text})")
    return 0


def open_model(source: str, runs_dir: str | None) -> "tuple[PreTrainedModel, Any, str]":
    """Network, tokenizer and where they came from. Raises UserError."""
    path = Path(source)
    if not path.is_file():
        from lightsleeper.cli.sources import locate

        path = locate(source, runs_dir)
    from lightsleeper.deploy.export import PACKED
    from lightsleeper.models.causal_lm import CausalLM

    if path.is_file() or (path / PACKED).is_file():
        from lightsleeper.deploy.packed_model import load_family, load_tokenizer, packed_file

        file = packed_file(path)
        family, tokenizer, text = load_family(file), load_tokenizer(file), f"{file}, {file.stat().st_size / 1e6:.2f} MB"
    else:
        from lightsleeper.deploy.finalize import load_model
        from lightsleeper.models.hub import tokenizer_of

        family, tokenizer, text = load_model(path), tokenizer_of(str(path / "transformers")), str(path)
    if not isinstance(family, CausalLM):
        raise UserError(f"{source}: {type(family).__name__} writes no text; lightning generate is for CausalLM.")
    if tokenizer is None:
        raise UserError(f"{source} has no tokenizer: its run wrote neither format transformers nor packed.")
    return family.net, tokenizer, text
