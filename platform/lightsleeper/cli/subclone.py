"""`lightning subclone`: a smaller transformers model, its first weights taken from a larger trained one."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import positive
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

HELP = (
    "Build a smaller model of the same family from a trained one (GPT-2, LLaMA, Mistral, Qwen 2 and 3, BERT, ViT) and "
    "write it as a transformers folder. It is a start for training, not a usable model."
)
SUFFIXES = (".txt", ".md", ".py", ".rst", ".text")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CHARACTERS_A_TOKEN = 8  # read for each token wanted: enough for any tokenizer on plain text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parent", metavar="PARENT", help="the larger model: local folder or hub name")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; it must not exist yet")
    parser.add_argument("--width", type=positive, metavar="N", help="residual width; default the parent's")
    parser.add_argument("--depth", type=positive, metavar="N", help="blocks; default the parent's")
    parser.add_argument("--heads", type=positive, metavar="N", help="attention heads; default follows the width")
    parser.add_argument("--kv-heads", type=positive, metavar="N", help="key and value heads; default follows the heads")
    parser.add_argument("--hidden", type=positive, metavar="N", help="MLP hidden width; default follows the width")
    parser.add_argument(
        "--data",
        metavar="FILE|FOLDER|NAME",
        help="calibration samples: text, a folder of text (or of images), a Hugging Face data set with a 'text' "
        "column; default: the Python standard library's sources",
    )
    parser.add_argument("--batches", type=positive, default=8, metavar="N", help="calibration batches, default 8")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="samples a batch, default 8")
    parser.add_argument("--length", type=positive, default=128, metavar="N", help="tokens a sample, default 128")
    parser.add_argument(
        "--order", choices=("importance", "random", "first"), default="importance", help="default: importance"
    )
    parser.add_argument("--scaling", choices=("sqrt", "none", "measured"), default="sqrt", help="default: sqrt")
    parser.add_argument(
        "--blocks", choices=("middle", "first", "strided", "score"), default="middle", help="default: middle"
    )
    parser.add_argument("--gguf-file", metavar="NAME", help="GGUF file in the parent's folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random order, default 0")
    parser.add_argument("--json", action="store_true", help="print what was kept as JSON")


def main(args: argparse.Namespace) -> int:
    out = Path(args.out)
    if out.exists():
        raise UserError(f"{out} exists already: name a new folder.")
    from lightsleeper_callbacks.subclone import load_parent, needs_batches, parent_config, subclone
    from lightsleeper_callbacks.subclone_wiring import check_fit, resized

    try:
        config = parent_config(args.parent, args.gguf_file)
        small = resized(config, args.width, args.depth, args.heads, args.kv_heads, args.hidden)
        check_fit(config, small)  # before the weights are read
        batches = None
        if needs_batches(args.order, args.scaling, args.blocks):
            batches = calibration(args, config)
        parent, absent = load_parent(args.parent, None, args.gguf_file)
        destination = type(parent)(small)
        done = subclone(
            parent,
            destination,
            batches,
            order=args.order,
            scaling=args.scaling,
            blocks=args.blocks,
            seed=args.seed,
            absent=absent,
        )
    except ValueError as error:
        raise UserError(f"{error}.") from error
    record = {
        "parent": str(args.parent),
        "order": args.order,
        "scaling": args.scaling,
        "blocks": list(done.kept.blocks),
        "fresh": list(done.fresh),
        "seed": args.seed,
        "parent_parameters": done.parent_parameters,
        "parameters": sum(p.numel() for p in destination.parameters()),
        "seconds": done.seconds,
    }
    from lightsleeper.models.hub import tokenizer_of

    write(destination, tokenizer_of(args.parent, args.gguf_file), record, out)
    report(record, out, args.json)
    return 0


def calibration(args: argparse.Namespace, config: "PreTrainedConfig") -> list[Mapping[str, "Tensor"]]:
    """``--batches`` batches from ``--data``, evenly spread over it. Raises UserError."""
    images = config.model_type == "vit"
    samples = image_samples(args, config) if images else text_samples(args, config)
    batches = samples.split(args.batch_size)[: args.batches]
    return [{"pixel_values" if images else "input_ids": batch} for batch in batches]


def text_samples(args: argparse.Namespace, config: "PreTrainedConfig") -> "Tensor":
    """Token ids (samples, length)."""
    import torch

    from lightsleeper.models.hub import tokenizer_of

    places = getattr(config, "max_position_embeddings", args.length)
    length, count = min(args.length, places), args.batches * args.batch_size
    text = read(args.data)
    step = max(len(text) // count, 1)
    size = min(length * CHARACTERS_A_TOKEN, step)
    pieces = [text[i * step : i * step + size] for i in range(count)]
    encode = tokenizer_of(args.parent, args.gguf_file)
    if encode is not None:
        ids = [encode(piece, add_special_tokens=False)["input_ids"][:length] for piece in pieces if piece]
    elif 256 <= config.vocab_size <= 260:  # bytes and a few special tokens
        ids = [list(piece.encode()[:length]) for piece in pieces]
    else:
        raise UserError(
            f"{args.parent} has no tokenizer and {config.vocab_size} tokens: expected one beside the weights, or "
            "--order first, which needs no data."
        )
    joined = torch.tensor([token for piece in ids for token in piece])
    if len(joined) < length:
        raise UserError(f"--data {args.data}: {len(joined)} tokens are less than one sample of {length}.")
    return joined[: len(joined) // length * length].reshape(-1, length)


def read(data: str | None) -> str:
    """The text that ``--data`` names. Raises UserError."""
    from lightsleeper.data.python_sources import read_text, standard_library

    if data is None:
        return read_text(standard_library()[0])
    path = Path(data)
    if path.is_file():
        return read_text([path])
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"--data {data}: the folder has no {', '.join(SUFFIXES)} file.")
        return read_text(files)
    import datasets

    try:
        rows = datasets.load_dataset(data, split="train")
        return "\n".join(rows["text"])
    except Exception as error:  # the hub's client has many
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--data {data} is no file, folder or data set with a 'text' column: {reason}") from error


def image_samples(args: argparse.Namespace, config: "PreTrainedConfig") -> "Tensor":
    """Images (samples, channels, height, width) in [-1, 1], stretched to the model's size."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(f for f in Path(args.data or "").rglob("*") if f.suffix.lower() in IMAGES) if args.data else []
    if not files:
        raise UserError("a vision model is calibrated on images: --data FOLDER with some, or --order first.")
    size = config.image_size if isinstance(config.image_size, (tuple, list)) else (config.image_size,) * 2
    count = min(args.batches * args.batch_size, len(files))
    mode = "L" if config.num_channels == 1 else "RGB"
    rows = []
    for file in files[:: len(files) // count][:count]:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(mode).resize((size[1], size[0])), dtype=np.float32)
        rows.append(torch.from_numpy(pixels / 127.5 - 1).reshape(*size, -1).permute(2, 0, 1))
    return torch.stack(rows)


def write(model: "PreTrainedModel", encode: Any, record: Mapping[str, Any], out: Path) -> None:
    """Write all into a folder beside ``out``, then rename it."""
    import json
    import shutil
    import tempfile

    from transformers import logging

    logging.disable_progress_bar()
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        model.save_pretrained(temporary)
        if encode is not None:
            encode.save_pretrained(temporary)
        (temporary / "subclone.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def report(record: Mapping[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(record, indent=1))
        return
    print(
        f"{out}: {record['parameters'] / 1e6:.2f} M parameters from {record['parent_parameters'] / 1e6:.2f} M, "
        f"blocks {' '.join(map(str, record['blocks']))} of the parent, {record['seconds']:.1f} s"
    )
    if record["fresh"]:
        print(f"newly initialised: {', '.join(record['fresh'])}")
