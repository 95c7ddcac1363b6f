from types import SimpleNamespace

import pytest
import torch
from lightsleeper.nn.optimizer import scheduled_adamw


def _train(precision: str) -> tuple[list[float], list[torch.Tensor]]:
    """Learning rates and weights of three steps; the second parameter is frozen."""
    weights = [torch.nn.Parameter(torch.full((3,), 2.0)), torch.nn.Parameter(torch.ones(2), requires_grad=False)]
    trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    found = scheduled_adamw(trainer, weights, 0.1, 0.01, "cosine", warmup_steps=2)  # type: ignore[arg-type]
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for step in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        weights[0].grad = torch.tensor([1.0, -1.0, 0.5]) * (step + 1)
        optimizer.step()
        scheduler.step()
    return rates, [w.detach() for w in weights]


def test_fused_or_not_the_same_weights_come_out() -> None:
    rates, fused = _train("32-true")
    _, plain = _train("bf16-mixed")
    assert rates == pytest.approx([0.05, 0.1, 0.1])
    torch.testing.assert_close(fused, plain)
    assert not torch.equal(fused[0], torch.full((3,), 2.0))
    assert torch.equal(fused[1], torch.ones(2))


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", False), ("16-mixed", False)])
def test_only_full_precision_is_fused(precision: str, fused: bool) -> None:
    trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    optimizer = scheduled_adamw(trainer, [torch.nn.Parameter(torch.ones(1))], 0.1, 0.0, "noam", 2)["optimizer"]  # type: ignore[arg-type]
    assert optimizer.defaults["fused"] is fused
