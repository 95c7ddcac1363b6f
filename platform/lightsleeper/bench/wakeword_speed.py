"""Speed of every wake-word family, side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightsleeper.models.wakeword_cnn import WakeWordCNN


def run(
    out: Path | None, threads: int = 1, engine: str | None = None, quick: bool = False, repeats: int | None = None
) -> dict[str, Any]:
    model = WakeWordCNN(branches=0)
    return {"networks": {"plain": {"parameters": sum(value.numel() for value in model.parameters())}}}


def report(result: dict[str, Any]) -> Iterator[str]:
    for name, row in result["networks"].items():
        yield f"{name:14}{row['parameters']:>12,}"
