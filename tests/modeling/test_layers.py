"""The routed layer alone: precision, gradients, training's routers, and what it costs to keep."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mogu import MoguConfig
from mogu.modeling.layers import RoutedLinear
from mogu.modeling.routers import ChainRouter
from mogu.modeling.routing import RoutingScope

pytestmark = pytest.mark.core

WIDTH, OUT, RANK = 48, 40, 4
# Routers and unscaled responders are kept in float32 at best, so float64 is held to that.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def make_layer(dtype: torch.dtype = torch.float64, *, bias: bool = True, conv1d: bool = False) -> RoutedLinear:
    torch.manual_seed(0)
    base = Conv1D(OUT, WIDTH) if conv1d else nn.Linear(WIDTH, OUT, bias=bias)
    config = MoguConfig(rank=RANK, lora_alpha=12, router_hidden=16)
    layer = RoutedLinear(base.to(dtype), WIDTH, OUT, config, RoutingScope(), dtype=dtype, device=torch.device("cpu"))
    for name in ("unwill", "glad"):
        layer.set_responder(name, torch.randn(RANK, WIDTH) / 4, torch.randn(OUT, RANK) / 4)
    layer.set_router(torch.randn(2, WIDTH) / 4, torch.randn(2))
    return layer


def formula(layer: RoutedLinear, x: torch.Tensor, dial: float = 0.0) -> torch.Tensor:
    """MoGU's formula in float64, from the layer's own (rounded) numbers."""
    x = x.double()
    plain = copy.deepcopy(layer.base_layer).double()(x)
    vectors, biases = (part.double() for part in layer.folded_router())
    logits = x @ vectors.T + biases + torch.tensor([dial, -dial], dtype=torch.float64)
    unwill_weight, glad_weight = (1 / (1 + torch.exp(-logits))).split(1, -1)
    (a_u, b_u), (a_g, b_g) = ((a.double(), b.double()) for a, b in (layer.responder("unwill"), layer.responder("glad")))
    low_rank = unwill_weight * (x @ a_u.T @ b_u.T) + glad_weight * (x @ a_g.T @ b_g.T)
    return (unwill_weight + glad_weight) * plain + layer.scaling * low_rank


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1, WIDTH), (3, 7, WIDTH), (5, WIDTH)])
@pytest.mark.parametrize("kind", [{"bias": True}, {"bias": False}, {"conv1d": True}])
def test_each_precision_follows_the_formula(dtype, shape, kind):
    layer = make_layer(dtype, **kind)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    output = layer(x)
    assert output.dtype == dtype
    expected = formula(layer, x)
    assert (output.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    layer.set_dial(0.5)
    expected = formula(layer, x, dial=0.5)
    assert (layer(x).double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def test_a_dial_turned_to_and_fro_leaves_no_trace():
    layer = make_layer(torch.bfloat16)
    x = torch.randn(2, WIDTH).bfloat16()
    before = layer(x)
    for dial in (0.3, -7.7, 123.4, 0.1, 0.0):
        layer.set_dial(dial)
    assert torch.equal(layer(x), before)


def test_the_base_output_and_the_input_are_left_as_they_were():
    layer = make_layer()
    seen = []
    layer.base_layer.register_forward_hook(lambda module, inputs, output: seen.append((output, output.clone())))
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    kept = x.clone()
    with torch.no_grad():
        layer(x)
    assert torch.equal(*seen[0])
    assert torch.equal(x, kept)


@pytest.mark.parametrize("kind", ["chain", "linear"])
def test_gradients_of_the_routers_and_the_input(kind):
    """Against finite differences, through y and through the routing weights."""
    layer = make_layer()
    layer.start_router_training(kind, 6)
    layer.double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    parameters = [parameter for name, parameter in layer.named_parameters() if name.startswith("routers.")]

    def run(*_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = layer(x)
        assert layer.routing_weights is not None
        return output, layer.routing_weights

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_a_chain_in_training_is_its_three_maps():
    layer = make_layer()
    layer.start_router_training("chain", 16)
    layer.double()
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    layer(x)
    for column, name in enumerate(("unwill", "glad")):
        chain = layer.routers[name]
        assert isinstance(chain, ChainRouter)
        logits = chain.linear_2(chain.linear_1(chain.linear_0(x)))[..., 0]
        torch.testing.assert_close(layer.routing_weights[..., column], torch.sigmoid(logits))


@pytest.mark.parametrize("kind", ["chain", "linear"])
def test_finishing_training_folds_the_routers(kind):
    layer = make_layer(torch.float32)
    layer.set_dial(0.4)
    layer.start_router_training(kind, 16)
    x = torch.randn(5, WIDTH)
    trained = layer(x)
    layer.finish_router_training()
    assert layer.routers is None
    torch.testing.assert_close(layer(x), trained)
    assert not any(parameter.requires_grad for name, parameter in layer.named_parameters() if not name.startswith("base_layer"))


def test_added_weights_are_as_few_as_promised():
    layer = make_layer()
    added = {name: tensor for name, tensor in layer.state_dict().items() if not name.startswith("base_layer.")}
    assert sum(tensor.numel() for tensor in added.values()) == (2 * RANK + 2) * WIDTH + 2 * RANK * OUT + 2
    assert layer.weight is layer.base_layer.weight


def test_autocast():
    layer = make_layer(torch.float32)
    x = torch.randn(4, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    expected = formula(layer, x)
    assert (output.double() - expected).abs().max() <= TOLERANCE[torch.bfloat16] * expected.abs().max()


@pytest.mark.parametrize("scaling_alpha", [12, 7])
def test_half_precision_responders_survive_saving(scaling_alpha):
    """Dividing the scaling out and multiplying it in again must not move a rounded number."""
    layer = make_layer(torch.bfloat16)
    layer.scaling = scaling_alpha / RANK
    layer.set_responder("glad", torch.randn(RANK, WIDTH), torch.randn(OUT, RANK))
    before = layer.up.clone()
    layer.set_responder("glad", *layer.responder("glad"))
    assert torch.equal(layer.up, before)
