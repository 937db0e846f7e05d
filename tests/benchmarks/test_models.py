"""The models that are measured have the same numbers, and share the weights that they should."""

from __future__ import annotations

import torch

from benchmarks.models import SMALL, make_base, make_published, make_routed, random_prompt
from benchmarks.speed import reply_ways
from mogu.modeling.shared_weights import share_weights

CPU = torch.device("cpu")


def test_published_procedure_equals_ours_in_float64() -> None:
    base = make_base(SMALL, CPU, torch.float64)
    routed, published = make_routed(share_weights(base)), make_published(base)
    for length in (3, 40):
        ways = reply_ways(base, {"continue": routed, "recompute": routed}, published.generate, random_prompt(SMALL, length, CPU), 24)
        replies = {name: way(None)[0, length:].tolist() for name, way in ways.items()}
        assert replies["published"] == replies["recompute"]
        assert len({tuple(replies[name]) for name in ("base", "continue", "recompute")}) == 3


def test_base_shares_weights_but_no_module_with_the_routed_model() -> None:
    base = make_base(SMALL, CPU, torch.float32)
    plain = base.model.layers[0].self_attn.o_proj
    routed = make_routed(share_weights(base))
    assert base.model.layers[0].self_attn.o_proj is plain
    assert type(plain) is torch.nn.Linear
    assert routed.routed_layers[0].base_layer.weight is plain.weight
