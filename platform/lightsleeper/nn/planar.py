"""The same network over (B, C, 1, T): what an exported graph gets in place of convolutions over (B, C, T).

ONNX Runtime has its fast layout (NCHWc) for two axes of space only; convolutions over one, depthwise ones above all, go
through a matrix product a channel and a buffer of 64 KiB. One row makes the difference: a hop of the small CNN took 84
us instead of 98, and 36 kB of arena instead of 154 (measured). Weights are shared and values the same.
"""

from torch import Tensor, nn

from lightsleeper.nn.causal import Causal, Chain, Kept, Residual, TrailingMean

ELEMENTWISE = (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Dropout, nn.Identity)


def planar(chain: Chain) -> Chain:
    """``chain`` with a row for each run of layers that can have one; the layers around are the same objects.

    A run holds convolutions (folded: no norms, no branches), means and element-wise functions, and keeps something
    between chunks: without that there is nothing to gain. Raises nothing: what is unknown stays as it is. The flat
    states of the two chains need not be alike.
    """
    layers: list[nn.Module] = []
    run: list[tuple[nn.Module, nn.Module]] = []  # layers and what takes their place
    for layer in chain.layers:
        other = _with_row(layer)
        if other is None:
            layers += [*_closed(run), layer]
            run = []
        else:
            run.append((layer, other))
    return Chain(*layers, *_closed(run))


def _closed(run: list[tuple[nn.Module, nn.Module]]) -> list[nn.Module]:
    if not any(isinstance(layer, Causal) and layer.pieces for layer, _ in run):
        return [layer for layer, _ in run]
    return [_AddRow(), *(other for _, other in run), _DropRow()]


def _with_row(layer: nn.Module) -> nn.Module | None:
    """The layer over (B, C, 1, T); None where it has none."""
    if type(layer) in ELEMENTWISE:
        return layer
    if isinstance(layer, (nn.Conv1d, nn.Sequential)):
        return _convolution(layer)
    if isinstance(layer, Kept) and layer.rows is None:
        inner = _convolution(layer.layer)
        past = layer.past + layer.future
        return None if inner is None else Kept(inner, past, layer.stride, rows=1, future=layer.future)
    if isinstance(layer, TrailingMean) and layer.rows is None:
        return TrailingMean(layer.channels, layer.past + 1, rows=1)
    if isinstance(layer, Residual):
        body = _with_row(layer.body)
        return Residual(body) if isinstance(body, Causal) else None
    if type(layer) is Chain:
        others = [_with_row(part) for part in layer.layers]
        return None if None in others else Chain(*(other for other in others if other is not None))
    return None


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    if isinstance(layer, nn.Sequential):  # a folded norm leaves an identity
        layer, *rest = layer
        if any(type(part) is not nn.Identity for part in rest):
            return None
    if type(layer) is not nn.Conv1d or layer.padding != (0,):
        return None
    kernel, stride, dilation = ((1, value[0]) for value in (layer.kernel_size, layer.stride, layer.dilation))
    bias = layer.bias is not None
    other = nn.Conv2d(layer.in_channels, layer.out_channels, kernel, stride, 0, dilation, layer.groups, bias)
    other.weight = nn.Parameter(layer.weight.detach().unsqueeze(2), requires_grad=False)
    if layer.bias is not None:
        other.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return other.eval()


class _AddRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


class _DropRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(2)
