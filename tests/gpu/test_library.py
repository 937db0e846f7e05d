"""What a GPU computes is what a CPU computes: whole replies, scores and a training step of tiny models, in float64. `make test-gpu`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mogu import MoguConfig
from tests.gated_models import gated_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

DEVICE = "cuda"
PROMPTS = [[1, 5, 60, 9, 9, 4, 61, 62], [1, 60, 17, 3, 33, 12, 61, 62], [1, 8, 60, 45, 6, 22, 61, 62]]


@torch.no_grad()
def replies(model: Any, device: str, **options: Any) -> tuple[list[list[int]], torch.Tensor | None]:
    """Greedy replies in one batch, and what the prompts scored."""
    model = copy.deepcopy(model).to(device)
    ids = torch.tensor(PROMPTS, device=device)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0, **options)
    scores = model.prompt_scores
    return output.tolist(), None if scores is None else scores.float().cpu()


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon", "mixtral", "gpt2"])
@pytest.mark.parametrize("handoff", ["recompute", "continue"])
def test_routed_replies(make_pair, family, handoff):
    model, _ = make_pair(family)
    on_cpu, scores = replies(model, "cpu", handoff=handoff)
    on_gpu, found = replies(model, DEVICE, handoff=handoff)
    assert on_gpu == on_cpu
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon", "mixtral", "gpt2"])
@pytest.mark.parametrize("listen", [None, 1.0])
def test_gated_replies(make_gated, family, listen):
    model, _ = make_gated(family, config=gated_config(before=(60,), after=(61, 62), listen=listen))
    on_cpu, scores = replies(model, "cpu")
    on_gpu, found = replies(model, DEVICE)
    assert on_gpu == on_cpu
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=0)


def test_a_static_cache_under_compilation_gives_the_same_replies(make_pair):
    model, _ = make_pair("llama", torch.float32, config=MoguConfig(rank=4, lora_alpha=12, router_hidden=6, handoff="continue"))
    assert replies(model, DEVICE, cache_implementation="static")[0] == replies(model, DEVICE)[0]


def test_a_gated_model_under_a_static_cache_gives_the_same_replies(make_gated):
    model, _ = make_gated("llama", config=gated_config(before=(60,), after=(61, 62), careful=None))
    assert replies(model, DEVICE, cache_implementation="static")[0] == replies(model, DEVICE)[0]
