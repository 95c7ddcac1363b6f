import pytest
import torch
from lightsleeper.nn.causal import Chain, ExponentialMean, Kept, Residual, TrailingMean, conv
from lightsleeper.nn.planar import planar
from lightsleeper_callbacks.foldable import folds, put
from torch import nn


def folded(*layers: nn.Module) -> Chain:
    chain = Chain(*layers).eval()
    put(chain, folds(chain))
    return chain


def network() -> Chain:
    torch.manual_seed(0)
    body = Chain(conv(6, 6, 3, dilation=2, groups=6, branches=2), nn.ReLU(), nn.Conv1d(6, 6, 1))
    return folded(
        ExponentialMean(4, 9.0), conv(4, 6, 5, 2), nn.ReLU(), Residual(body), TrailingMean(6, 3), nn.Conv1d(6, 2, 1)
    )


@torch.no_grad()
def test_it_streams_the_same_values():
    chain = network()
    flat = planar(chain)
    assert [type(layer).__name__ for layer in flat.layers] == [
        "ExponentialMean", "_AddRow", "Kept", "ReLU", "Residual", "TrailingMean", "Conv2d", "_DropRow"
    ]  # fmt: skip
    x = torch.randn(2, 4, 60)
    assert (flat(x) - chain(x)).abs().max() <= 1e-6
    state, parts = flat.initial(x), []
    assert state.shape == (2, chain.state_size)
    for chunk in x.split([2, 4, 20, 34], -1):
        y, state = flat.stream(chunk, state)
        parts.append(y)
    assert (torch.cat(parts, -1) - chain(x)).abs().max() <= 1e-6
    assert (flat.past, flat.stride) == (chain.past, chain.stride)


def test_weights_are_shared():
    chain = network()
    flat = planar(chain)
    weights = {layer.weight.data_ptr() for layer in chain.modules() if isinstance(layer, nn.Conv1d)}
    assert {layer.weight.data_ptr() for layer in flat.modules() if isinstance(layer, nn.Conv2d)} == weights


@pytest.mark.parametrize(
    "layers",
    [
        [conv(4, 6, 5), nn.ReLU()],  # a norm behind it
        [conv(4, 6, 5, branches=2), nn.ReLU()],
        [nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 2, 1)],  # nothing is kept
        [Kept(nn.Conv2d(1, 3, 5), 4, rows=5), nn.ReLU()],
    ],
    ids=["norm", "branches", "pointwise", "two axes"],
)
def test_other_layers_stay_as_they_are(layers: list[nn.Module]):
    assert list(planar(Chain(*layers)).layers) == layers
