"""Benchmarks of several parts, one a call: what each part takes, keeps and holds.

A part is a module ``<benchmark>_<part>`` of this package with ``run(out, threads=..., ...) -> dict`` and
``report(result) -> Iterator[str]``.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lightsleeper.bench.conditions import conditions
from lightsleeper.deploy.benchmark import machine_lock
from lightsleeper.errors import UserError


@dataclass(frozen=True)
class Part:
    """What the command line of a part may say beside ``--out`` and ``--threads``."""

    options: tuple[str, ...]
    """Those that were not given are not passed on."""
    keeps: bool = False
    """Trainings that a second call goes on from, in ``--out``."""
    times: bool = False
    """Measures speed all along, so it holds the machine's benchmark lock; others train for hours and leave it to the
    benchmark stage of each run."""


def run(benchmark: str, parts: Mapping[str, Part], args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    part = parts[args.part]
    known = dict.fromkeys(name for other in parts.values() for name in other.options)
    options = {name: value for name in known if (value := getattr(args, name, None))}
    if surplus := [name for name in options if name not in part.options]:
        raise UserError(f"bench {benchmark} --part {args.part} takes no --{surplus[0]}.")
    if args.out is None and part.keeps:
        raise UserError(f"bench {benchmark} --part {args.part} needs --out DIR: finished trainings are kept there.")
    module = import_module(f"lightsleeper.bench.{benchmark}_{args.part}")
    threads = args.threads or 1
    with machine_lock() if part.times else nullcontext():
        found = module.run(None if args.out is None else Path(args.out), threads=threads, **options)
    result = {"part": args.part, "conditions": conditions(threads), **found}
    print(f"{benchmark}: " + ", ".join(f"{name} {value}" for name, value in result["conditions"].items()))
    for line in module.report(result):
        print(line)
    return result
