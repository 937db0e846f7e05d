"""Replies to many prompts are what plain ``generate`` replies to each alone, however many there are at a time and wherever memory ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu import MoguModel
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import Reply, ReplySettings, replies, replies_with_progress

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = [(LETTERS[start:] + LETTERS)[: 3 + start % 7] for start in range(20)]
ENDS = [3, 9, 17, 28, 40, 51]
NEW = 12


@pytest.fixture
def base(make_base: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    model = make_base()
    model.generation_config.eos_token_id = ENDS
    return model


@pytest.fixture
def routed(make_pair: Callable[..., tuple[MoguModel, Any]]) -> MoguModel:
    model, _ = make_pair()
    model.generation_config.eos_token_id = ENDS
    return model


def alone(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: str, **options: Any) -> Reply:
    """The reply of plain ``generate`` to one prompt."""
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    tokens = model.generate(ids, max_new_tokens=NEW, do_sample=False, **options)[0, ids.shape[1] :].tolist()
    length = next((place for place, token in enumerate(tokens) if token in ENDS), len(tokens))
    return Reply(tokenizer.decode(tokens[:length], skip_special_tokens=True).strip(), length, length < len(tokens))


@contextmanager
def room_for(model: Any, rows: int) -> Iterator[list[int]]:
    """Let a forward pass over more rows run out of memory; gives the number of rows of each pass."""
    seen: list[int] = []

    def check(_: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(len(args[0]))
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError(f"{len(args[0])} rows do not fit")

    hook = model.get_input_embeddings().register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_replies_of_the_base_model_do_not_depend_on_the_batch(base: PreTrainedModel, tokenizer: Any, batch_size: int) -> None:
    expected = [alone(base, tokenizer, prompt) for prompt in PROMPTS]
    assert {reply.finished for reply in expected} == {True, False}
    assert any(reply.tokens == 0 for reply in expected), "one should end at once"
    assert replies(base, tokenizer, PROMPTS, ReplySettings(NEW), batch_size=batch_size) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("handoff", ["recompute", "continue"])
@pytest.mark.parametrize("routed_tokens", [0, 3, "all"])
def test_replies_of_a_routed_model_do_not_depend_on_the_batch(
    routed: MoguModel, tokenizer: Any, batch_size: int, handoff: Any, routed_tokens: Any
) -> None:
    routed.mogu_config.handoff, routed.mogu_config.routed_tokens = handoff, routed_tokens
    expected = [alone(routed, tokenizer, prompt) for prompt in PROMPTS]
    assert replies(routed, tokenizer, PROMPTS, ReplySettings(NEW), batch_size=batch_size) == expected


def test_rows_that_ended_are_not_computed(base: PreTrainedModel, tokenizer: Any) -> None:
    lengths = [reply.tokens + reply.finished for reply in replies(base, tokenizer, PROMPTS, ReplySettings(NEW), batch_size=1)]
    with room_for(base, 64) as rows:
        replies(base, tokenizer, PROMPTS, ReplySettings(NEW))
    assert rows == [sum(length > made for length in lengths) for made in range(max(lengths))]


@pytest.mark.parametrize("model_name", ["base", "routed"])
def test_short_memory_changes_no_reply(request: pytest.FixtureRequest, tokenizer: Any, model_name: str) -> None:
    model = request.getfixturevalue(model_name)
    told: list[int] = []
    with room_for(model, 4) as rows:
        found = replies(model, tokenizer, PROMPTS, ReplySettings(NEW), batch_size=64, advance=told.append)
    assert found == [alone(model, tokenizer, prompt) for prompt in PROMPTS]
    assert rows[:4] == [20, 10, 5, 3]
    assert max(rows[3:]) == 3
    assert sum(told) == len(PROMPTS)


def test_too_little_memory_for_one_reply_is_an_error(base: PreTrainedModel, tokenizer: Any) -> None:
    with room_for(base, 0), pytest.raises(torch.OutOfMemoryError):
        replies(base, tokenizer, PROMPTS[:2], ReplySettings(NEW))


def test_sampled_replies_are_those_of_generate_with_the_same_seed(base: PreTrainedModel, tokenizer: Any) -> None:
    prompts = [prompt for prompt in PROMPTS if len(prompt) == 5]
    ids = torch.tensor([encode_prompt(tokenizer, prompt) for prompt in prompts])
    torch.manual_seed(4)
    output = base.generate(ids, max_new_tokens=NEW, do_sample=True, temperature=0.9, top_p=0.8, top_k=0)[:, ids.shape[1] :].tolist()
    expected = [row[: next((place for place, token in enumerate(row) if token in ENDS), NEW)] for row in output]
    before = torch.random.get_rng_state()
    found = replies(base, tokenizer, prompts, ReplySettings(NEW, temperature=0.9, top_p=0.8, seed=4))
    assert [reply.text for reply in found] == [tokenizer.decode(row, skip_special_tokens=True).strip() for row in expected]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_stop_string_ends_a_reply_and_its_row_leaves(base: PreTrainedModel, tokenizer: Any) -> None:
    full = [alone(base, tokenizer, prompt) for prompt in PROMPTS]
    stop = next(letter for reply in full for letter in reply.text[1:4] if letter.strip())
    with room_for(base, 64) as rows:
        found = replies(base, tokenizer, PROMPTS, ReplySettings(NEW, stop=(stop,)))
    assert [reply.text for reply in found] == [reply.text.partition(stop)[0].strip() for reply in full]
    assert all(reply.finished for reply, whole in zip(found, full, strict=True) if stop in whole.text)
    assert sum(rows) < sum(sum(reply.tokens + reply.finished > made for reply in full) for made in range(NEW))


def test_a_model_whose_own_settings_ask_for_beams_gets_them(base: PreTrainedModel, tokenizer: Any) -> None:
    greedy = [alone(base, tokenizer, prompt) for prompt in PROMPTS]
    base.generation_config.num_beams = 3
    expected = [alone(base, tokenizer, prompt) for prompt in PROMPTS]
    assert expected != greedy
    assert replies(base, tokenizer, PROMPTS, ReplySettings(NEW)) == expected


def test_the_progress_bar_is_on_the_error_stream(base: PreTrainedModel, tokenizer: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert replies_with_progress(base, tokenizer, PROMPTS, ReplySettings(NEW), title="mine") == replies(
        base, tokenizer, PROMPTS, ReplySettings(NEW)
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert "mine" in err
    assert "20 of 20" in err
