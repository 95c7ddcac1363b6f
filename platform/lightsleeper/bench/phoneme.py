"""`lightning bench phoneme`: keywords in one embedding against DSP, CMCD and the encoder's own likelihood.

One part a call (`bench.parts`).
"""

from typing import Any

from lightsleeper.bench import parts
from lightsleeper.bench.parts import Part

PARTS = {
    "accuracy": Part(("quick", "seeds", "only", "collect"), keeps=True),
    "people": Part(("quick", "seeds", "collect"), keeps=True),
}


def run(args: Any) -> dict[str, Any]:
    """Measure ``args.part``, print its tables and return all numbers. Raises UserError for what does not fit."""
    return parts.run("phoneme", PARTS, args)
