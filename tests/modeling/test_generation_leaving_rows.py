"""Routed generation from which rows leave, against one prompt at a time without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad

pytestmark = pytest.mark.core

NEW = 14
ENDS = [3, 9, 17, 28, 40, 51]
GREEDY = {"do_sample": False, "max_new_tokens": NEW}
RANDOM = torch.Generator().manual_seed(3)
PROMPTS = [torch.randint(5, 64, (int(length),), generator=RANDOM).tolist() for length in torch.randint(10, 15, (9,), generator=RANDOM)]
BATCH = left_pad(PROMPTS, 0, torch.device("cpu"))
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])


def until_end(reply: list[int]) -> list[int]:
    return reply[: next((place + 1 for place, token in enumerate(reply) if token in ENDS), len(reply))]


def one_by_one(model: MoguModel, **options: Any) -> list[list[int]]:
    return [until_end(model.generate(torch.tensor([ids]), **GREEDY | options)[0, len(ids) :].tolist()) for ids in PROMPTS]


def together(model: MoguModel, **options: Any) -> list[list[int]]:
    output = model.generate(**BATCH, custom_generate=LeavingRows(), eos_token_id=ENDS, **GREEDY | options)
    return [until_end(row) for row in output[:, BATCH["input_ids"].shape[1] :].tolist()]


@contextmanager
def counted_rows(model: MoguModel) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of each forward pass."""
    shapes: list[tuple[int, int]] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    try:
        yield shapes
    finally:
        hook.remove()


@both_handoffs
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon-alibi", "mistral", "qwen3", "baichuan"])
def test_families_reply_as_written_out_slowly(make_pair: Callable[..., Any], family: str, handoff: str) -> None:
    model, slow = make_pair(family)
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    expected = [until_end(reference(torch.tensor([ids]), routed_tokens=5, new_tokens=NEW)) for ids in PROMPTS]
    assert together(model, handoff=handoff) == expected


@both_handoffs
@pytest.mark.parametrize("routed_tokens", [0, 1, 4, "all"])
@pytest.mark.parametrize("first_layer", [0, 1, 2])
def test_every_opening_and_every_first_layer(make_pair: Callable[..., Any], handoff: str, routed_tokens: Any, first_layer: int) -> None:
    model, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, layers=list(range(first_layer, 3))))
    options = {"handoff": handoff, "routed_tokens": routed_tokens}
    expected = one_by_one(model, **options)
    assert len({len(reply) for reply in expected}) > 2
    with counted_rows(model) as shapes:
        assert together(model, **options) == expected
    assert shapes[-1][0] == sum(len(reply) == max(map(len, expected)) for reply in expected)


def test_lower_layers_are_spared_their_second_reading_although_rows_end_in_the_opening(make_pair: Callable[..., Any]) -> None:
    model, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, layers=[1, 2], routed_tokens=4))
    assert min(len(reply) for reply in one_by_one(model)) < 4
    seen: list[tuple[int, ...]] = []
    hook = model.routed_layers[0].register_forward_hook(lambda _, args, output: seen.append(tuple(output.shape[:2])))
    lower = model.base_model.model.layers[0].self_attn.o_proj
    lower_hook = lower.register_forward_hook(lambda _, args, output: seen.append(("lower", *output.shape[:2])))
    try:
        together(model)
    finally:
        hook.remove()
        lower_hook.remove()
    longest = BATCH["input_ids"].shape[1]
    assert (9, longest + 4) in seen  # the second reading
    assert [shape for shape in seen if shape[0] == "lower" and shape[2] > 1] == [("lower", 9, longest)]


@both_handoffs
def test_a_marker_routes_the_rows_that_are_left(make_pair: Callable[..., Any], tokenizer: Any, handoff: str) -> None:
    model, _ = make_pair("llama")
    model.use_tokenizer(tokenizer)
    plain = one_by_one(model, routed_tokens=2, handoff=handoff)
    letters = [tokenizer.decode([token]) for reply in plain for token in reply[3:9]]
    marker = max({letter for letter in letters if letter.isalpha()}, key=letters.count)
    options = {"routed_tokens": 2, "handoff": handoff, "answer_marker": marker}
    expected = one_by_one(model, **options)
    assert expected != plain, "the marker should change something"
    assert together(model, **options) == expected


def test_a_dial_of_one_call(make_pair: Callable[..., Any]) -> None:
    model, _ = make_pair("llama")
    plain = together(model)
    with model.routing("on", dial=2.5):
        expected, found = one_by_one(model), together(model)
    assert found == expected
    assert found != plain


@pytest.mark.parametrize("mode", ["off", "glad"])
def test_other_modes(make_pair: Callable[..., Any], mode: Any) -> None:
    model, _ = make_pair("llama")
    with model.routing(mode):
        assert together(model) == one_by_one(model)


def test_prompt_weights_are_of_all_prompts(make_pair: Callable[..., Any]) -> None:
    model, _ = make_pair("llama")
    together(model)
    found = model.prompt_scores
    alone = []
    for ids in PROMPTS:
        model.generate(torch.tensor([ids]), **GREEDY)
        alone.append(model.prompt_scores)
    assert found is not None
    torch.testing.assert_close(found, torch.cat([score for score in alone if score is not None]))


def test_other_loops_are_still_refused(make_pair: Callable[..., Any]) -> None:
    model, _ = make_pair("llama")

    def loop(model: Any, input_ids: Tensor, **kwargs: Any) -> Tensor:
        return input_ids

    with pytest.raises(ConfigError, match="custom_generate"):
        model.generate(torch.tensor(PROMPTS[:1]), custom_generate=loop, **GREEDY)
