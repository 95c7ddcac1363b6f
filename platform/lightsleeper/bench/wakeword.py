"""`lightning bench wakeword`: speed, accuracy and recordings of people. One part a call.

A part is a module ``wakeword_<part>`` of this package with ``run(out, threads=..., ...) -> dict`` and
``report(result) -> Iterator[str]``. Part ``speed`` holds the machine's benchmark lock while it measures; others train
for hours and leave it to the benchmark stage of each run.
"""

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from lightsleeper.bench.conditions import conditions
from lightsleeper.deploy.benchmark import machine_lock
from lightsleeper.errors import UserError

PARTS: dict[str, tuple[str, ...]] = {
    "speed": ("engine", "quick", "repeats"),
    "accuracy": ("quick", "seeds", "only", "collect"),
    "people": ("engine", "quick", "collect"),
}
"""What each part takes beside ``out`` and ``threads``; an option that was not given is not passed on."""
KEEPS = ("accuracy", "people")  # trainings that a second call goes on from


def run(args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    part = args.part
    known = dict.fromkeys(name for names in PARTS.values() for name in names)
    options = {name: value for name in known if (value := getattr(args, name, None))}
    if surplus := [name for name in options if name not in PARTS[part]]:
        raise UserError(f"bench wakeword --part {part} takes no --{surplus[0]}.")
    if args.out is None and part in KEEPS:
        raise UserError(f"bench wakeword --part {part} needs --out DIR: finished trainings are kept there.")
    module = import_module(f"lightsleeper.bench.wakeword_{part}")
    threads = args.threads or 1
    with machine_lock() if part == "speed" else nullcontext():
        found = module.run(None if args.out is None else Path(args.out), threads=threads, **options)
    result = {"part": part, "conditions": conditions(threads), **found}
    print("wakeword: " + ", ".join(f"{name} {value}" for name, value in result["conditions"].items()))
    for line in module.report(result):
        print(line)
    return result
