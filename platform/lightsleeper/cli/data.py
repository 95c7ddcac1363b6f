"""`lightning data`: build, inspect, hear or see the data of a recipe, have its texts spoken by another engine, or hand
its multiple-choice items to lm-eval."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import positive
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    import lightning as L

HELP = (
    "Build the data of a recipe, show what it holds, write clips to hear or to see, or have its test texts spoken by "
    "an engine that no model was trained on, or its multiple-choice items written for lm-eval. Only `data:` of the "
    "recipe is used."
)
SHORTCUT_LIMIT = 0.55  # of AUC on hard pairs, for scorers that cannot know what was said
CHECKED = ("duration", "phone_count", "text")  # duration_and_count is a fair cue, shown but not judged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("build", "make the data, as a run would, and say where it lies"),
        ("inspect", "sizes of the parts, what they share, and checks for shortcuts"),
        ("listen", "write some clips as wav, with labels.csv"),
        ("watch", "write some face tracks as pictures and videos, with labels.csv"),
        ("items", "write the multiple-choice items of the test as a task of lm-eval"),
        ("speak", "have another engine say the test texts, as a folder for `evaluate --data`"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("recipe", nargs="+", metavar="RECIPE", help="recipe, then overlays")
        if name in ("listen", "watch"):
            action.add_argument("--count", type=positive, default=8, metavar="N", help="clips to write, default 8")
            action.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
        if name == "items":
            action.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
        if name == "speak":
            action.add_argument("--engine", choices=("flite",), default="flite", help="program that speaks")
            action.add_argument("--part", choices=("test", "unseen_words"), default="test", help="whose texts")
            action.add_argument("--count", type=positive, default=400, metavar="N", help="texts at most, default 400")
            action.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder, or one to complete")


def main(args: argparse.Namespace) -> int:
    if args.action == "speak":
        return speak(args)
    data = data_module(args.recipe, args.overrides)
    data.prepare_data()
    data.setup("test" if args.action in ("listen", "watch", "items") else "fit")
    if args.action == "listen":
        listen(data, args.count, args.out)
    elif args.action == "watch":
        from lightsleeper.cli.data_watch import watch

        watch(data, args.count, args.out)
    elif args.action == "items":
        write_items(data, args.out)
    elif args.action == "inspect":
        return inspect(data)
    else:
        from lightsleeper.data.module import asked

        summary = asked(data, "summary")()
        print(f"{type(data).__name__} {summary.get('hash', '')}: ready")
        corpus = getattr(data, "corpus", None)
        if corpus is not None:
            print(f"in {corpus.folder}")
    return 0


def data_module(files: list[str], overrides: list[str]) -> "L.LightningDataModule":
    """The data module of a recipe, seeded as a run's; raises UserError as `lightning validate` does."""
    from lightsleeper.recipe import load
    from lightsleeper.recipe.parsing import build_data

    return build_data(load(files, overrides))


def inspect(data: "L.LightningDataModule") -> int:
    """Print the summary as tables; exit code 1 when a shortcut scorer passes the limit."""
    from rich.console import Console
    from rich.table import Table

    from lightsleeper.data.module import asked

    summary = asked(data, "summary")()
    console = Console()
    console.print(f"{type(data).__name__} {summary.get('hash')}, protocol {summary.get('protocol')}", highlight=False)
    counts = summary.get("counts") or {}
    parts = {name: part for name, part in counts.items() if isinstance(part, dict)}
    kinds = list(dict.fromkeys(key for part in parts.values() for key in part if "_w" not in key))
    table = Table("counts", *parts)
    for kind in kinds:
        table.add_row(kind, *(_shown(part.get(kind)) for part in parts.values()))
    if parts:
        console.print(table)
    for name, value in counts.items():
        if name not in parts:
            console.print(f"{name}: {_shown(value)}", highlight=False)
    _print_overlap(console, summary.get("overlap") or {})
    shortcuts = asked(data, "shortcuts")()
    if not shortcuts:
        return 0
    table = Table("AUC on hard pairs of a scorer that sees only", *shortcuts)
    for name in next(iter(shortcuts.values())):
        table.add_row(name.replace("_", " "), *(f"{scores[name]:.3f}" for scores in shortcuts.values()))
    console.print(table)
    faults = [f"{part} {n}" for part, s in shortcuts.items() for n in CHECKED if max(s[n], 1 - s[n]) > SHORTCUT_LIMIT]
    if faults:
        console.print(f"above {SHORTCUT_LIMIT}, so hard pairs can be told without listening: {', '.join(faults)}")
    return 1 if faults else 0


def _print_overlap(console: Any, overlap: dict[str, Any]) -> None:
    from rich.table import Table

    rows = {pair: shared for pair, shared in overlap.items() if isinstance(shared, dict)}
    if rows:
        kinds = list(dict.fromkeys(kind for shared in rows.values() for kind in shared))
        table = Table("shared by", *kinds)
        for pair, shared in rows.items():
            table.add_row(pair, *(_shown(shared.get(kind)) for kind in kinds))
        console.print(table)
    for name, value in overlap.items():
        if name not in rows:
            console.print(f"shared {name}: {_shown(value)}", highlight=False)


def listen(data: "L.LightningDataModule", count: int, folder: Path) -> None:
    """Write ``count`` clips and labels.csv. A synthesised corpus gives words' times and how the clip was made; running
    speech the begin of its test streams."""
    import csv

    import soundfile

    from lightsleeper.data.module import asked
    from lightsleeper.data.running_speech import RunningSpeech

    corpus = getattr(data, "corpus", None)
    if isinstance(data, RunningSpeech):
        rows = list(_stream_clips(data, count))
    else:
        rows = list(_batch_clips(data, count) if corpus is None else _corpus_clips(corpus, count))
    if not rows:
        raise UserError("the data holds no clip to write.")
    folder.mkdir(parents=True, exist_ok=True)
    names = list(rows[0][1])
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", *names])
        writer.writeheader()
        for number, (audio, labels) in enumerate(rows):
            name = f"{number:03d}.wav"
            soundfile.write(folder / name, audio, asked(data, "sample_rate"), subtype="PCM_16")
            writer.writerow({"file": name, **labels})
    print(f"{len(rows)} clips and labels.csv written to {folder}")


def write_items(data: Any, folder: Path) -> None:
    """Write the items of a test of choices, and the task that lm-eval makes of them. Raises UserError without them."""
    from lightsleeper.data.lm_eval_task import NAME, write_task

    items = getattr(data, "items", None)
    if not items:
        raise UserError(
            f"{type(data).__name__} has no multiple-choice items: give LocalText data.choice_items, or take "
            "MultipleChoice."
        )
    write_task(items, folder)
    print(f"{len(items)} items and their task written to {folder}")
    model = "pretrained=RUN/export/transformers,dtype=float32"
    print(f"lm_eval --model hf --model_args {model} --tasks {NAME} --include_path {folder}")


def speak(args: argparse.Namespace) -> int:
    """Have the texts of a part spoken by an engine of another make; refuses what it can before a corpus is built."""
    from lightsleeper.data import flite

    program = flite.find_flite()
    flite.refuse_foreign(args.out)
    data: Any = data_module(args.recipe, args.overrides)
    if not hasattr(type(data), "corpus"):
        raise UserError(
            f"data speak needs the texts of a synthesised corpus (SpokenPhrases), not {type(data).__name__}."
        )
    data.prepare_data()
    corpus = data.corpus
    spoken = [corpus.texts[clip] for clip in corpus.clips(args.part)]
    if not spoken:
        raise UserError(f"--part {args.part}: the corpus of {' '.join(args.recipe)} has no such part.")
    texts = flite.choose_texts(spoken, args.count)
    new = flite.speak(texts, args.out, program)
    print(f"{len(texts)} texts in {len(flite.voices(program))} voices in {args.out}, {new} clips of them new")
    print(f"lightning evaluate last --data {args.out}")
    return 0


def _corpus_clips(corpus: Any, count: int) -> Any:
    """Clips spread evenly over all parts."""
    for number in range(min(count, len(corpus))):
        clip = number * len(corpus) // min(count, len(corpus))
        row = corpus.row(clip)
        words = zip(row["text"].split(), row.pop("word_starts_s"), row.pop("word_ends_s"), strict=True)
        times = " ".join(f"{word}:{start:.3f}-{end:.3f}" for word, start, end in words)
        phones = zip(row.pop("phone_labels"), row.pop("phone_starts_s"), strict=True)
        row["words_s"] = times
        row["phones_s"] = " ".join(f"{label}:{start:.3f}" for label, start in phones)
        yield corpus.audio(clip), {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def _stream_clips(data: Any, count: int) -> Any:
    """The begin of ``count`` test streams, spread evenly over all, with the words in it."""
    streams = list(data.streams("test").values())
    for number in range(min(count, len(streams))):
        stream = streams[number * len(streams) // min(count, len(streams))]
        audio = stream.read(0, min(data.plan.chunk, stream.samples))
        end = len(audio) / data.sample_rate
        said = " ".join(f"{data.words[int(w)]}:{a:.3f}-{b:.3f}" for a, b, w in stream.events if a < end)
        yield audio, {"content": stream.content, "words_s": said}


def _batch_clips(data: Any, count: int) -> Any:
    """Pairs of the first test set, as a model gets them."""
    loaders = data.test_dataloader()
    for batch in loaders[0] if isinstance(loaders, (list, tuple)) else loaders:
        if "text" not in batch:
            raise UserError(
                f"data listen writes a synthesised corpus or pairs of text and audio, not {type(data).__name__}."
            )
        for row in range(len(batch["text"])):
            if count == 0:
                return
            count -= 1
            length = int(batch["audio_lengths"][row])
            yield batch["audio"][row, :length].numpy(), {"text": batch["text"][row], "label": int(batch["label"][row])}


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
