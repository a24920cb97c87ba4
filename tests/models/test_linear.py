"""Linear layers by oneDNN: torch's own results and gradients, and the plain layers afterwards."""

from __future__ import annotations

import torch
from torch import nn

from saccade.models.linear import onednn_linears


def test_results_and_gradients_are_those_of_the_plain_layers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4, bias=False))
    x = torch.randn(3, 5, 6, requires_grad=True)

    def results() -> list[torch.Tensor]:
        y = network(x)
        return [y, *torch.autograd.grad((y * torch.arange(4)).sum(), [x, *network.parameters()])]

    plain = results()
    with onednn_linears(network):
        assert all("forward" in vars(layer) for layer in network if isinstance(layer, nn.Linear))
        fast = results()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert not any("forward" in vars(layer) for layer in network)


def test_frozen_weights_and_other_types_are_left_out():
    network = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4).to(torch.bfloat16))
    with onednn_linears(network):
        assert "forward" not in vars(network[1]), "bfloat16 keeps its own layer"
        x = torch.randn(2, 4, requires_grad=True)
        network[0](x).sum().backward()
    assert x.grad is not None and network[0].weight.grad is None
