"""`lightning bench asd`: what context costs and buys an active-speaker detector. One part a call (`bench.parts`)."""

from typing import Any

from lightsleeper.bench import parts
from lightsleeper.bench.parts import Part

PARTS = {
    "speed": Part(("quick", "repeats"), times=True),
    "context": Part(("quick", "seeds", "only", "collect", "workers"), keeps=True),
    "modality": Part(("quick", "seeds", "collect", "workers"), keeps=True),
}


def run(args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    return parts.run("asd", PARTS, args)
