"""`lightning bench edkm`: what clustering costs a layer, a training step, and the memory between forward and backward.

layer: forward and backward of one clustered layer, each back-end on the same bfloat16 weights held in float32, against
dense DKM and, as a whole layer on one row of input, coremltools' DKMPalettizer where it is installed; the fast one also
against its floor, the passes over all weights that it cannot do without. step: the training step of a layer at 2,048
tokens against the plain one. memory: bytes kept for backward by the weights of a LLaMA-7B decoder layer. shapes: peak
memory and time on every shape of two language models (`edkm_shapes`). forecast: what a fine-tune of 7 B would need
(`edkm_forecast`).
"""

import contextlib
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightsleeper_callbacks import dkm as plain
from lightsleeper_callbacks import edkm_chunked, edkm_saved, edkm_table
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.edkm_weight import SOFTNESS
from lightsleeper_callbacks.kmeans import kmeans
from torch import Tensor, nn

from lightsleeper.bench.conditions import chosen_parts, conditions, torch_threads
from lightsleeper.bench.timing import Spread, in_turns, shown, spread, timed
from lightsleeper.quiet import quiet

PARTS = ("layer", "step", "memory", "shapes", "forecast")
BITS, ITERATIONS = 3, 5
STD = 0.02  # of the weights, as a language model's
EQUAL = 1e-5  # largest gradient difference, as a share of the largest gradient
TARGETS = {"dense": 150, "coremltools": 50}
TOKENS = 2048
LLAMA = {"q k v o": (4, 1, 1), "gate up down": (3, 1, 11008 / 4096)}  # matrices of one decoder layer, in widths
WIDTH = 4096
PAPER_SHARDS = 8


def run(args: Any) -> dict[str, Any]:
    """Measure the parts asked for, print them and return the numbers. Raises UserError for an unknown part."""
    from lightsleeper.bench import edkm_forecast, edkm_shapes  # which measure what is defined here

    wanted = chosen_parts("edkm", args.part, PARTS)
    threads = args.threads or os.cpu_count() or 1
    result: dict[str, Any] = {"quick": args.quick, "conditions": _conditions(threads)}
    print("eDKM: " + ", ".join(f"{name} {value}" for name, value in result["conditions"].items()))
    limit = None if args.memory_gb is None else int(args.memory_gb * 1e9)
    out = None if args.out is None else Path(args.out)

    def shapes(quick: bool, repeats: int | None) -> dict[str, Any]:
        return edkm_shapes.run(quick, threads, limit, out)

    def forecast(quick: bool, repeats: int | None) -> dict[str, Any]:
        return edkm_forecast.run(result["shapes"] if "shapes" in result else shapes(quick, None), threads)

    measure = {"layer": layer, "step": step, "memory": memory, "shapes": shapes, "forecast": forecast}
    render = {**RENDER, "shapes": edkm_shapes.render, "forecast": edkm_forecast.render}
    with torch_threads(threads):
        for name in wanted:
            result[name] = {"quick": args.quick, **measure[name](args.quick, args.repeats)}
            print("\n" + "\n".join(render[name](result[name])))
    return result


def _conditions(threads: int) -> dict[str, Any]:
    found = conditions(threads, bits=BITS, iterations=ITERATIONS)
    with contextlib.suppress(PackageNotFoundError):
        found["coremltools"] = version("coremltools")
    return found


class Clustering:
    """One layer's weights (n, 1), where its rounds start and how soft they are: the same for all that is compared."""

    def __init__(self, rows: int, columns: int, short: bool = True, bits: int = BITS) -> None:
        weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * STD
        self.weight = (weight.bfloat16().float() if short else weight).requires_grad_()
        flat = self.weight.detach().view(-1, 1)
        self.start, error = kmeans(flat, 1 << bits)
        self.settings = (SOFTNESS * error, ITERATIONS, 0.0)  # eps 0: all of them take all rounds
        self.upstream = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))

    def solve(self, method: Callable[..., Any]) -> Tensor:
        """Forward and backward; the gradient (n, 1)."""
        result, _ = method(self.weight.view(-1, 1), self.start, *self.settings)
        return torch.autograd.grad(result, self.weight, self.upstream)[0].view(-1, 1)

    def exact(self) -> Tensor:
        """The gradient by dense DKM in float64."""
        leaf = self.weight.detach().double().view(-1, 1).requires_grad_()
        result, _ = plain.dkm(leaf, self.start.double(), *self.settings)
        return torch.autograd.grad(result, leaf, self.upstream.double())[0]


def layer(quick: bool, repeats: int | None) -> dict[str, Any]:
    size = 256 if quick else 1024
    fast, slow = repeats or (5 if quick else 20), min(repeats or 3, 3)
    short, long = Clustering(size, size), Clustering(size, size, short=False)
    methods: dict[str, tuple[Clustering, Callable[..., Any], int]] = {
        "table": (short, edkm_table.dkm, fast),
        "chunked": (short, edkm_chunked.dkm, fast),
        "chunked, float32 weights": (long, edkm_chunked.dkm, fast),
        "saved (M+U)": (short, edkm_saved.dkm, slow),
        "dense": (short, plain.dkm, slow),
        "dense, float32 weights": (long, plain.dkm, slow),
    }
    times: dict[str, Spread] = {}
    differences: dict[str, float] = {}
    exact = {id(problem): problem.exact() for problem in (short, long)}
    for name, (problem, method, count) in methods.items():
        differences[name] = _apart(problem.solve(method), exact[id(problem)])
        times[name] = timed(lambda: problem.solve(method), count)  # noqa: B023 - called at once
    modules = {"callback, auto": _module(short.weight.detach())}
    times["callback, auto"] = timed(_one_row(modules["callback, auto"]), fast)
    if (apple := _coremltools(short.weight.detach())) is not None:
        times["coremltools"] = timed(_one_row(apple), slow)
    pairs = {
        "dense": "table",
        "dense, float32 weights": "chunked, float32 weights",
        **({"coremltools": "callback, auto"} if apple is not None else {}),
    }
    ratios = {slower: times[slower]["median"] / times[faster]["median"] for slower, faster in pairs.items()}
    pieces = _floor(short, fast)
    return {
        "size": size,
        "distinct": len(short.weight.detach().unique()),
        "ms": times,
        "gradient_difference": differences,
        "ratio": ratios,
        "floor_ms": pieces,
        "times_floor": times["table"]["median"] / sum(pieces.values()),
    }


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _floor(problem: Clustering, repeats: int) -> dict[str, float]:
    """Milliseconds of each pass that the table form has to make once: the indices, counting, the work on the values,
    looking up and adding up."""
    weight = problem.weight.detach()
    codes = edkm_table._codes(weight.bfloat16())
    table, grad = torch.randn(edkm_table.VALUES), problem.upstream.view(-1)
    points, counts = weight.view(-1).unique(return_counts=True)
    tau, iterations, eps = problem.settings
    counts = counts.float()

    def values() -> None:
        rounds = edkm_chunked.run(points[None], counts, problem.start, tau, iterations, eps)
        edkm_chunked.mixtures(points[None], rounds, tau)
        edkm_chunked.gradients(points[None], counts, rounds, tau, points[None])

    calls: dict[str, Callable[[], Any]] = {
        "index of each weight": lambda: edkm_table._codes(weight.bfloat16()),
        "count": lambda: torch.bincount(codes, minlength=edkm_table.VALUES),
        "rounds and gradients of the values": values,
        "look up": lambda: table.index_select(0, codes),
        "add up": lambda: torch.zeros(edkm_table.VALUES).index_add_(0, codes, grad),
    }
    return {name: timed(call, repeats)["median"] for name, call in calls.items()}


def _module(weight: Tensor) -> nn.Linear:
    """A layer as the callback prepares it."""
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False).train()
    module.weight.data = weight.clone()
    edkm = EDKMClustering(bits=BITS, iterations=ITERATIONS, eps=0.0, small_below=0)
    edkm.prepare_once(module)
    edkm.step(module, 0.0)
    return module


def _one_row(module: nn.Module) -> Callable[[], None]:
    columns = next(module.parameters()).shape[1]
    x = torch.randn(1, columns, generator=torch.Generator().manual_seed(2))

    def call() -> None:
        module(x).sum().backward()
        module.zero_grad()

    return call


def _coremltools(weight: Tensor) -> nn.Module | None:
    """A layer under coremltools' DKMPalettizer with the same bits and rounds; None where it is not installed."""
    try:
        with quiet("coremltools"):  # of the versions of torch and scikit-learn that it has not seen
            palettization = import_module("coremltools.optimize.torch.palettization")
    except ImportError:
        return None
    module = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False)).train()
    module[0].weight.data = weight.clone()
    config = palettization.DKMPalettizerConfig.from_dict(
        {"global_config": {"n_bits": BITS, "cluster_dim": 1, "kmeans_max_iter": ITERATIONS, "milestone": 0,
                           "weight_threshold": 0, "palett_epsilon": 0.0, "palett_tau": SOFTNESS * 0.035 * STD**2}}
    )  # fmt: skip
    with quiet("coremltools"):
        palettizer = palettization.DKMPalettizer(module, config)
        prepared = palettizer.prepare(inplace=False)
        palettizer.step()
    return prepared


def step(quick: bool, repeats: int | None) -> dict[str, Any]:
    size, tokens = (256, 256) if quick else (1024, TOKENS)
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) * STD
    x = torch.randn(tokens, size, generator=torch.Generator().manual_seed(3))
    linear = nn.Linear(size, size, bias=False)
    linear.weight.data = weight.clone()
    modules = {"plain": linear, "bfloat16, table": _module(weight)}
    long = nn.Linear(size, size, bias=False)
    long.weight.data = weight.clone()
    edkm = EDKMClustering(bits=BITS, iterations=ITERATIONS, small_below=0, weight_dtype="float32")
    edkm.prepare_once(long.train())
    edkm.step(long, 0.0)
    modules["float32, chunked"] = long
    calls = {name: _training_step(module, x) for name, module in modules.items()}
    times = in_turns(calls, repeats or (5 if quick else 20))
    found = {name: {**spread(taken), "repeats": len(taken)} for name, taken in times.items()}
    ratios = {name: found[name]["median"] / found["plain"]["median"] for name in found}
    return {"size": size, "tokens": tokens, "ms": found, "ratio": ratios}


def _training_step(module: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(module.parameters(), 1e-5)
    x = x.clone().requires_grad_()  # a layer within a network passes the gradient on

    def call() -> None:
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        x.grad = None

    return call


def memory(quick: bool, repeats: int | None) -> dict[str, Any]:
    """Bytes kept for backward over all matrices of the layer, one matrix at a time."""
    device = "cuda" if torch.cuda.is_available() and not quick else "cpu"
    scale = 1 if device == "cuda" else 32 if quick else 8
    techniques: dict[str, Callable[[Tensor], edkm_saved.SavedTensors]] = {
        "none": lambda w: edkm_saved.SavedTensors(w, False, False, None, "cpu"),
        "M": lambda w: edkm_saved.SavedTensors(w, True, False, None, "cpu"),
        "M+U": lambda w: edkm_saved.SavedTensors(w, True, True, None, "cpu"),
        "M+S": lambda w: edkm_saved.SavedTensors(w, True, False, edkm_saved.SimulatedShards(PAPER_SHARDS), "cpu"),
        "M+U+S": lambda w: edkm_saved.SavedTensors(w, True, True, edkm_saved.SimulatedShards(PAPER_SHARDS), "cpu"),
    }
    kept = dict.fromkeys([*techniques, "table", "chunked", "the weights themselves"], 0)
    equal = True
    for count, rows, columns in LLAMA.values():
        shape = int(rows * WIDTH / scale), int(columns * WIDTH / scale)
        problem = Clustering(*shape)
        for name in ("weight", "start", "upstream"):
            setattr(problem, name, getattr(problem, name).detach().to(device))
        weight = problem.weight.requires_grad_()
        flat, settings = weight.view(-1, 1), problem.settings
        expected = problem.solve(plain.dkm)
        for name, technique in techniques.items():
            saved = technique(flat)
            result, _ = edkm_saved.dkm(flat, problem.start, *settings, saved=saved)
            kept[name] += count * saved.bytes
            if name in ("none", "M+U+S"):
                (found,) = torch.autograd.grad(result, weight, problem.upstream)
                equal &= torch.equal(found.view(-1, 1), expected)
            del result
        own = _kept(lambda: edkm_table.dkm(weight, problem.start, *settings), weight)  # noqa: B023 - called at once
        kept["table"] += count * own
        kept["chunked"] += count * _kept(lambda: edkm_chunked.dkm(flat, problem.start, *settings), weight)  # noqa: B023
        kept["the weights themselves"] += count * weight.numel() * 4
    ratios = {name: kept["none"] / max(kept[name], 1) for name in kept}
    return {"device": device, "width": WIDTH // scale, "full_size": scale == 1, "shards": PAPER_SHARDS,
            "bytes": kept, "ratio": ratios, "gradients_equal": equal}  # fmt: skip


def _kept(call: Callable[[], Any], weight: Tensor) -> int:
    """Bytes of all storages that autograd keeps, each once, without the parameter, which is there anyway."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = call()
    found.pop(weight.untyped_storage().data_ptr(), None)
    del alive
    return sum(found.values())


def _render_layer(found: dict[str, Any]) -> list[str]:
    lines = [
        f"layer {found['size']} x {found['size']}, {found['distinct']} distinct bfloat16 values, forward + backward, "
        "median (min-max) after one untimed call",
        f"{'':28}{'ms':>28}{'gradient off by':>18}   (against dense in float64, share of the largest)",
    ]
    for name, times in found["ms"].items():
        off = found["gradient_difference"].get(name)
        lines.append(f"{name:28}{_range(times):>28}{'' if off is None else format(off, '.1e'):>18}")
    floor = sum(found["floor_ms"].values())
    lines.append("floor " + ", ".join(f"{name} {value:.2f}" for name, value in found["floor_ms"].items()) + " ms: "
                 f"{floor:.2f} ms; table takes {found['times_floor']:.2f} times that")  # fmt: skip
    for name, ratio in found["ratio"].items():
        target = TARGETS.get(name)
        verdict = f"; target {target} at 1024" if found["quick"] and target else ""
        if target and not found["quick"]:
            verdict = f"; target {target}: {'reached' if ratio >= target else 'MISSED'}"
        lines.append(f"{ratio:.1f} times faster than {name}{verdict}")
    off = found["gradient_difference"]
    worst = max(off[name] for name in ("table", "chunked", "chunked, float32 weights"))
    lines.append(
        f"gradients of table and chunked equal to {EQUAL:.0e}: {'yes' if worst <= EQUAL else 'NO'} ({worst:.1e})"
    )
    return lines


def _render_step(found: dict[str, Any]) -> list[str]:
    lines = [f"training step of a {found['size']} x {found['size']} layer at {found['tokens']} tokens, AdamW"]
    return lines + [
        f"{name:28}{_range(times):>28} ms{found['ratio'][name]:>9.2f} x" for name, times in found["ms"].items()
    ]


def _render_memory(found: dict[str, Any]) -> list[str]:
    lines = [
        f"kept for backward by the 7 matrices of a LLaMA-7B decoder layer, width {found['width']} (published 4096), on "
        f"{found['device']}; float32 maps; S: {found['shards']} simulated shards, one of them counted; none: every "
        "saved tensor copied, as when they go to another device; gradients equal: "
        + ("yes" if found["gradients_equal"] else "NO"),
    ]
    kept, ratio = found["bytes"], found["ratio"]
    return lines + [f"{name:28}{kept[name] / 1e6:>14.3f} MB{ratio[name]:>12.1f} x less" for name in kept]


RENDER: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "layer": _render_layer,
    "step": _render_step,
    "memory": _render_memory,
}


def _range(times: Spread) -> str:
    return shown(times, 2, ("min", "max"))
