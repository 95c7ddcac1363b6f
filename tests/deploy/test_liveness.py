import torch
from lightsleeper.deploy.liveness import peak_activation_bytes
from lightsleeper_callbacks.repconv import RepConv1d
from torch import Tensor, nn

X = torch.randn(1, 2, 10)  # 80 bytes


def test_a_chain_of_three_holds_input_and_output_of_the_widest_layer():
    chain = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Conv1d(3, 5, 1), nn.Conv1d(5, 1, 1))
    # 80 + 120; 120 + 200; 200 + 40
    assert peak_activation_bytes(chain, (X,)) == 320


def test_a_branch_keeps_what_it_needs_later():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.narrow(self.wide(x)) + x

    assert peak_activation_bytes(Skip(), (X,)) == 80 + 240 + 80  # x stays until the sum


def test_views_take_nothing():
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2).unsqueeze(0).flatten(0, 1)[:, 2:].exp()

    assert peak_activation_bytes(Views(), (X,)) == 80 + 64


def test_branches_take_more_than_what_they_fold_into():
    layer = RepConv1d(2, 2, 5, branches=4).eval()
    folded = peak_activation_bytes(layer.reparameterize(), (X,))
    assert folded == 160
    assert peak_activation_bytes(layer, (X,)) > folded
