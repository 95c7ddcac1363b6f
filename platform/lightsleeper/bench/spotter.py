"""`lightning bench spotter`: what gates cost and save, and what many words cost. One part a call (`bench.parts`)."""

from typing import Any

from lightsleeper.bench import parts
from lightsleeper.bench.parts import Part

PARTS = {
    "accuracy": Part(("quick", "seeds", "only", "collect"), keeps=True),
    "latency": Part(("quick", "repeats", "models"), times=True),
    "streaming": Part(("quick", "models")),
    "people": Part(("quick", "seeds", "collect"), keeps=True),
    "classes": Part(("quick", "repeats"), times=True),
}


def run(args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    return parts.run("spotter", PARTS, args)
