"""Numbers in comments: papers/dynamic_conformer, section 11."""

import pytest
import torch
from lightsleeper.nn.conformer import Conformer
from lightsleeper.nn.gated_conformer import GatedConformer
from lightsleeper.nn.gates import Gate, open_rate, skipping, straight_through
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

WIDTH, STEPS, BLOCKS = 16, 29, 2


def make(gated: bool = True) -> GatedConformer:
    torch.manual_seed(0)
    return GatedConformer(WIDTH, BLOCKS, heads=2, kernel=7, expansion=2, gated=gated).eval()


def force(model: GatedConformer, opened: list[bool]) -> None:
    gates = [gate for block in model.blocks for gate in block.gates]  # type: ignore[union-attr]
    for gate, value in zip(gates, opened, strict=True):
        gate.logits.weight.data.zero_()
        gate.logits.bias.data = torch.tensor([5.0, -5.0] if value else [-5.0, 5.0])


def mixed(model: GatedConformer) -> GatedConformer:
    """Gates whose decisions depend on the window."""
    for block in model.blocks:
        for gate in block.gates:  # type: ignore[union-attr]
            gate.logits.weight.data.normal_(0, 3)
            gate.logits.bias.data.zero_()
    return model


def windows(count: int = 7) -> Tensor:
    return torch.randn(count, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))


# 3
@torch.no_grad()
def test_with_open_gates_it_is_the_plain_conformer_bit_for_bit():
    model, plain, ungated = make(), Conformer(dim=WIDTH, blocks=BLOCKS, heads=2, kernel=7).eval(), make(gated=False)
    force(model, [True] * 8)
    weights = {name: value for name, value in model.blocks.state_dict().items() if ".gates." not in name}
    plain.blocks.load_state_dict(weights)
    ungated.blocks.load_state_dict(weights)
    x = expected = windows()
    for block in plain.blocks:
        expected = block(expected, None)
    hidden, gates = model(x)
    assert torch.equal(hidden, expected)
    assert gates.tolist() == [[1.0] * 8] * len(x)
    assert torch.equal(ungated(x)[0], expected)
    model.use_gates(False)
    assert torch.equal(model(x)[0], expected)


# 3
@torch.no_grad()
def test_with_closed_gates_the_residual_stream_is_the_input():
    model, x = make(), windows()
    force(model, [False] * 8)
    for block in model.blocks:
        kept, _ = block.residual(x)  # type: ignore[operator]
        assert torch.equal(kept, x)
    _, gates = model(x)
    assert not gates.any()


# 3
@pytest.mark.parametrize("only", range(4))
@torch.no_grad()
def test_with_one_open_gate_the_residual_stream_has_that_module_alone(only: int):
    model, x = make(), windows()
    force(model, [number == only for number in range(4)] * 2)
    block = model.blocks[0]
    kept, _ = block.residual(x)  # type: ignore[operator]
    assert torch.equal(kept, x + block.branches()[only](x))  # type: ignore[operator]


# 4
@torch.no_grad()
def test_a_skipped_module_is_not_called_and_counts_as_zero():
    model, x = mixed(make()), windows(12)
    called: dict[int, int] = {}
    modules = [m for b in model.blocks for m in (b.first, b.attention, b.convolution, b.second)]
    for number, module in enumerate(modules):
        module.register_forward_hook(lambda _, given, out, n=number: called.update({n: len(given[0])}))
    hidden, gates = model(x)
    assert 0 < gates.mean() < 1
    assert [called.get(n, 0) for n in range(8)] == gates.sum(0).int().tolist()

    expected = x
    for block in model.blocks:
        for gate, branch in zip(block.gates, block.branches(), strict=True):  # type: ignore[arg-type, operator]
            expected = expected + gate.open(expected)[..., None] * branch(expected)
        expected = block.norm(expected)
    assert torch.allclose(hidden, expected, atol=1e-6)


# 5
@torch.no_grad()
def test_decisions_of_a_window_do_not_depend_on_its_neighbours():
    model = mixed(make()).double()
    x = windows(6).double()
    hidden, gates = model(x)
    for number in range(len(x)):
        other = torch.randn_like(x)
        other[number] = x[number]
        again, decided = model(other)
        assert torch.equal(decided[number], gates[number])
        assert (again[number] - hidden[number]).abs().max() <= 1e-12


# 6
def test_a_sample_is_0_or_1_and_is_1_as_often_as_the_gate_says():
    for keep in (0.1, 0.5, 0.85):
        torch.manual_seed(2)
        drawn = straight_through(torch.full((40_000, 1), keep).logit())
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        assert float(drawn.mean()) == pytest.approx(keep, abs=0.01)


# 6
def test_the_gradient_reaches_the_gate_and_says_which_way():
    torch.manual_seed(0)
    gate, x = Gate(WIDTH), windows(64)
    gate.sample(x).mean().backward()
    keep, skip = gate.logits.bias.grad.tolist()
    assert keep > 0 > skip
    assert gate.logits.weight.grad.abs().sum() > 0


# 6
@torch.no_grad()
def test_inference_is_certain_and_follows_one_half():
    model, x = mixed(make()), windows()
    gate = model.blocks[0].gates[0]  # type: ignore[index]
    kept = gate.logits(x.mean(1)).softmax(-1)[:, :1]
    assert torch.allclose(gate.keep(x), kept)
    assert torch.equal(gate.open(x), kept > 0.5)
    first, second = model(x), model(x)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_gates_begin_nearly_open():
    assert Gate(WIDTH).keep(windows()).flatten().tolist() == pytest.approx([0.9] * 7)


# 7, 11b
def test_one_open_gate_of_twelve_is_a_rate_of_one_twelfth():
    decisions = torch.zeros(5, 12)
    decisions[:, 3] = 1
    assert float(open_rate(decisions)) == pytest.approx(0.0833, abs=1e-4)


# 7
def test_a_penalty_of_zero_leaves_the_other_gradients_alone():
    def gradients(penalty: float | None) -> list[Tensor]:
        model, x = mixed(make()).train(), windows()
        torch.manual_seed(3)
        hidden, gates = model(x)
        loss = hidden.square().mean()
        (loss if penalty is None else loss + penalty * open_rate(gates)).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(None), gradients(0.0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(gradients(None), gradients(1.0), strict=True))


# 8
@torch.no_grad()
def test_counted_multiplications_are_those_of_the_modules_that_ran():
    model = make()
    macs = model.module_macs(STEPS)
    codes = WIDTH * WIDTH * (2 * STEPS - 1)  # of relative positions: constant, counted by torch
    for opened in ([True] * 8, [False, True, False, False, True, False, True, False]):
        force(model, opened)
        with FlopCounterMode(display=False) as counter:
            model(windows(1))
        gates = 8 * WIDTH
        expected = sum(m for m, value in zip(macs, opened, strict=True) if value)
        attention = sum(value for number, value in enumerate(opened) if number % 4 == 1)
        assert counter.get_total_flops() // 2 == expected + gates + codes * attention


# 11b
def test_multiplications_of_the_published_block_are_those_of_the_dossier():
    feed_forward, attention, convolution, last = GatedConformer(80, 1, kernel=15, expansion=2).module_macs(29)
    assert feed_forward == last == pytest.approx(0.74e6, rel=0.01)
    positions = 80 * 29 * 57
    assert attention - positions == pytest.approx(0.88e6, rel=0.01)
    assert convolution == pytest.approx(0.59e6, rel=0.01)
    assert 2 * feed_forward + attention - positions + convolution == pytest.approx(2.96e6, rel=0.01)


def test_twelve_gates_of_width_40_have_984_parameters():
    model = GatedConformer(40, 3, gated=True)
    assert sum(p.numel() for name, p in model.named_parameters() if ".gates." in name) == 984
    assert sum(p.numel() for n, p in GatedConformer(80, 8, gated=True).named_parameters() if ".gates." in n) == 5184


def test_windows_of_which_none_or_all_are_open_take_no_copy():
    x = windows(3)
    assert skipping(x, torch.zeros(3, 1, dtype=torch.bool), nn.Identity()) is x
    assert torch.equal(skipping(x, torch.ones(3, 1, dtype=torch.bool), nn.Identity()), 2 * x)
