"""`lightning bench spotter --part streaming`: does a stream, chunk by chunk, equal the same audio heard at once?

Trained spotters in double precision hear the beginning of their test streams of each content: whole, hop by hop, and in
chunks of several hops. Outputs must agree to 1e-12 (scores; times in seconds), and so must the decisions of gates. A
gate whose probability of keeping lies within 1e-9 of one half may fall either way by rounding: such hops are counted
and compared in nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightsleeper.bench.conditions import torch_threads
from lightsleeper.bench.spotter_latency import finished, named, streams
from lightsleeper.deploy.finalize import load_model
from lightsleeper.errors import UserError
from lightsleeper.models.spotter_judging import Steps
from lightsleeper.models.word_spotter import WordSpotter
from lightsleeper.nn.gates import Gate
from lightsleeper.recipe import load
from lightsleeper.recipe.parsing import build_data
from lightsleeper.tracking.record import read

HOPS, QUICK_HOPS = 1500, 25  # of each content: six minutes
CHUNKS: dict[str, tuple[int, ...]] = {"hop by hop": (1,), "1 to 7 hops in turn": (1, 5, 2, 7, 3)}
EQUAL = 1e-12
MARGIN = 1e-9  # of a probability from one half
Row = dict[str, Any]


def run(out: Path | None, threads: int = 1, quick: bool = False, models: Sequence[str] | None = None) -> dict[str, Any]:
    """All numbers. ``models``: NAME=RUN; else finished trainings of ``out``. Raises UserError for no word spotter."""
    folders = named(models) if models else finished(out, quick)
    heard = streams(build_data(load([next(iter(folders.values()))])), QUICK_HOPS if quick else HOPS)
    rows = []
    with torch_threads(threads):
        for name, folder in folders.items():
            model = load_model(folder)
            if not isinstance(model, WordSpotter):
                raise UserError(f"'{folder}' holds a {type(model).__name__}, expected a word spotter.")
            model.double().eval()
            for content, parts in heard.items():
                audio = [torch.from_numpy(part)[None].double() for part in parts]
                rows.append({"model": name, "run": read(folder).run_id, "content": content, **compared(model, audio)})
    return {"rows": rows, "chunks": list(CHUNKS)}


@torch.no_grad()
def compared(model: WordSpotter, streams: Sequence[Tensor]) -> Row:
    """The largest differences over streams (1, S) and ways of chunking, hops that are left out, and unequal gates."""
    found: Row = {"hops": 0, "gates": 0, "undecided": 0, "closest": 0.5, "unequal_gates": 0, "difference": 0.0}
    for audio in streams:
        whole, distance = watched(model, lambda audio=audio: model(audio))  # type: ignore[misc]
        undecided = (distance <= MARGIN).any(1) if distance.numel() else torch.zeros(len(distance), dtype=torch.bool)
        hops = audio.shape[1] // model.hop_samples
        undecided = undecided if len(undecided) else torch.zeros(hops, dtype=torch.bool)
        found["hops"] += hops
        found["gates"] += distance.numel()
        found["undecided"] += int(undecided.sum())
        found["closest"] = min(found["closest"], float(distance.min()) if distance.numel() else 0.5)
        for sizes in CHUNKS.values():
            chunked = streamed(model, audio, sizes)
            steps = ~undecided.repeat_interleave(whole.score.shape[1] // hops)
            for name in ("score", "begin_s", "end_s"):
                apart = (getattr(whole, name) - getattr(chunked, name)).abs()[0, steps]
                found["difference"] = max(found["difference"], float(apart.max()) if len(apart) else 0.0)
            if whole.gates is not None and chunked.gates is not None:
                found["unequal_gates"] += int((whole.gates != chunked.gates)[0, ~undecided].sum())
    return found


def watched(model: nn.Module, call: Callable[[], Steps]) -> tuple[Steps, Tensor]:
    """What ``call`` gives, and how far each gate's probability lay from one half: (hops, modules), (0, 0) without."""
    seen: list[Tensor] = []
    handles = [
        gate.register_forward_hook(lambda _, given, margin: seen.append((margin.sigmoid() - 0.5).abs()))
        for gate in model.modules()
        if isinstance(gate, Gate)
    ]
    try:
        found = call()
    finally:
        for handle in handles:
            handle.remove()
    return found, torch.cat(seen, 1) if seen else torch.zeros(0, 0)


def streamed(model: WordSpotter, audio: Tensor, sizes: Sequence[int]) -> Steps:
    """Steps of audio (1, S) heard in chunks of ``sizes`` hops, over and over; times from the start of the stream."""
    state, at = model.initial(), 0
    parts: list[Steps] = []
    whole = audio.shape[1] // model.hop_samples * model.hop_samples
    while at < whole:
        chunk = audio[:, at : min(whole, at + model.hop_samples * sizes[len(parts) % len(sizes)])]
        steps = model.stream(chunk, state)
        start_s = at / model.hop_samples * model.windowing.slide_ms / 1000
        parts.append(steps._replace(begin_s=steps.begin_s + start_s, end_s=steps.end_s + start_s))
        state, at = steps.state, at + chunk.shape[1]
    score, word, begin, end = (torch.cat(column, 1) for column in list(zip(*parts, strict=True))[:4])
    ran = [part.gates for part in parts if part.gates is not None]
    gates = torch.cat(ran, 1) if ran else None
    return Steps(score, word, begin, end, gates, state)


def report(result: dict[str, Any]) -> Iterator[str]:
    yield f"streaming: double precision; whole against {' and '.join(result['chunks'])}"
    yield (
        f"  {'':12}{'content':>12}{'hops':>8}{'decisions':>11}{'within 1e-9':>13}{'closest':>10}{'unequal':>9}"
        f"{'largest difference':>20}"
    )
    for row in result["rows"]:
        closest = f"{row['closest']:.1e}" if row["gates"] else "-"
        equal = row["difference"] <= EQUAL and not row["unequal_gates"]
        yield (
            f"  {row['model']:12}{row['content']:>12}{row['hops']:>8}{row['gates']:>11}{row['undecided']:>13}"
            f"{closest:>10}{row['unequal_gates']:>9}{row['difference']:>20.1e}  {'reached' if equal else 'MISSED'}"
        )
