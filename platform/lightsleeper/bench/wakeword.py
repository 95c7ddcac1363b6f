"""`lightning bench wakeword`: speed, accuracy and recordings of people. One part a call (`bench.parts`)."""

from typing import Any

from lightsleeper.bench import parts
from lightsleeper.bench.parts import Part

PARTS = {
    "speed": Part(("engine", "quick", "repeats"), times=True),
    "accuracy": Part(("quick", "seeds", "only", "collect"), keeps=True),
    "people": Part(("engine", "quick", "collect"), keeps=True),
}


def run(args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    return parts.run("wakeword", PARTS, args)
