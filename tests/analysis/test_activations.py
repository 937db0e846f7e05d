"""Activations are those of plain passes, one prompt at a time, with hooks of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.analysis.activations import KINDS, projection_inputs, read_activations
from mogu.errors import MoguError
from mogu.modeling.architectures import find_output_projections

PROMPTS = [[5, 9, 30, 2, 41, 17, 8], [3, 50], [12, 7, 7, 25], [60]]


MakeBase = Callable[..., PreTrainedModel]


def plain_inputs(model: PreTrainedModel, prompt: list[int]) -> list[Tensor]:
    """What goes into each output projection, ``[tokens, d_in]``, in one whole pass over one prompt without padding."""
    seen: dict[int, Tensor] = {}
    handles = []
    for one in find_output_projections(model):

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], layer: int = one.layer) -> None:
            seen[layer] = inputs[0].reshape(-1, inputs[0].shape[-1]).clone()

        handles.append(one.module.register_forward_pre_hook(hook))
    with torch.no_grad():
        model(input_ids=torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    return [seen[layer] for layer in sorted(seen)]


def expected(model: PreTrainedModel, prompts: list[list[int]]) -> dict[str, Tensor]:
    """``[layers, prompts, widest]``; narrower layers end in zeros."""
    plain = [plain_inputs(model, prompt) for prompt in prompts]
    widest = max(x.shape[1] for x in plain[0])
    found = {kind: torch.zeros(len(plain[0]), len(prompts), widest, dtype=plain[0][0].dtype) for kind in KINDS}
    for prompt, layers in enumerate(plain):
        for layer, x in enumerate(layers):
            found["last"][layer, prompt, : x.shape[1]] = x[-1]
            found["mean"][layer, prompt, : x.shape[1]] = x.sum(0) / len(x)
    return found


def test_padded_batches_give_what_plain_passes_give(every_family: str, make_base: MakeBase) -> None:
    model = make_base(every_family)
    found = projection_inputs(model, find_output_projections(model), PROMPTS, 0)
    for kind, reference in expected(model, PROMPTS).items():
        assert found[kind].dtype == torch.float64
        assert found[kind].shape == reference.shape
        tolerance = 1e-5 if every_family in ("laguna", "qwen3_5_text") else 1e-10  # parts of these compute in float32
        assert torch.allclose(found[kind], reference, atol=tolerance, rtol=1e-9), kind


def test_the_padding_token_is_never_seen(make_base: MakeBase) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    one, other = (projection_inputs(model, projections, PROMPTS, pad) for pad in (0, 33))
    assert all(torch.equal(one[kind], other[kind]) for kind in KINDS)


def test_nan_at_padding_does_not_spread(make_base: MakeBase) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    clean = projection_inputs(model, projections, PROMPTS, 0)

    def spoil(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        spoiled = inputs[0].clone()
        spoiled[1, 2:] = float("nan")  # the second prompt has two tokens
        return (spoiled,)

    handle = projections[-1].module.register_forward_pre_hook(spoil)
    spoiled = projection_inputs(model, projections, PROMPTS, 0)
    handle.remove()
    assert all(torch.equal(clean[kind], spoiled[kind]) for kind in KINDS)


def test_a_pass_ends_before_logits_and_leaves_no_hooks(make_base: MakeBase) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    calls: list[str] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append("logits"))
    projections[-1].module.register_forward_hook(lambda *_: calls.append("last projection"))
    projections[0].module.register_forward_hook(lambda *_: calls.append("first projection"))
    projection_inputs(model, projections, PROMPTS, 0)
    assert calls == ["first projection"]
    assert not any(one.module._forward_pre_hooks for one in projections)


def test_hooks_are_gone_when_a_pass_fails(make_base: MakeBase) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = projections[1].module.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        projection_inputs(model, projections, PROMPTS, 0)
    handle.remove()
    assert not any(one.module._forward_pre_hooks for one in projections)


def test_half_precision_models_give_finite_float32(make_base: MakeBase) -> None:
    model = make_base("llama", torch.bfloat16)
    found = projection_inputs(model, find_output_projections(model), PROMPTS, 0)
    assert {one.dtype for one in found.values()} == {torch.float32}


def test_activations_come_in_the_order_of_prompts(make_base: MakeBase) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    told: list[int] = []
    found = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=3, advance=told.append)
    reference = expected(model, PROMPTS)
    for kind in KINDS:
        for layer in range(3):
            assert torch.allclose(found.of(kind, layer), reference[kind][layer], rtol=2**-10, atol=2**-20)
    assert found.vectors["last"].values.dtype == torch.float16
    assert sum(told) == len(PROMPTS)


def test_activations_that_are_not_finite_are_an_error(make_base: MakeBase) -> None:
    model = make_base("llama", torch.float32)
    model.model.layers[1].self_attn.v_proj.weight.data.fill_(float("inf"))
    with pytest.raises(MoguError, match="layer 1 are not finite, with the model in float32"):
        read_activations(model, find_output_projections(model), PROMPTS, pad_token_id=0, batch_size=2)
