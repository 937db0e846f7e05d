"""Gated generation against ``tests.reference.SlowGated``: who answers each prompt, and what they answer."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
from transformers import DynamicCache

from mogu.errors import ConfigError
from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad
from mogu.transformers_compat import CACHE

pytestmark = pytest.mark.core

NEW = 8
GREEDY = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}


def prompt_of(number: int, words: int = 6) -> list[int]:
    random = torch.Generator().manual_seed(number)
    return [1, 60, *torch.randint(3, 59, (words,), generator=random).tolist(), 61, 62]


PROMPTS = [prompt_of(number, 3 + number % 5) for number in range(24)]


def logit_of(model, slow, ids: list[int]) -> float:
    user = list(range(2, len(ids) - 2))
    return slow.logit(ids, model.gate.vectors, model.gate.bias, user, len(ids) - 1, len(ids) - 3)


def who_answers(model, slow, ids: list[int]) -> str:
    probability = 1 / (1 + math.exp(-logit_of(model, slow, ids)))
    return "unwill" if probability >= 0.7 else "careful" if probability >= 0.4 else "base"


@pytest.fixture(scope="module")
def pair(make_gated):
    model, slow = make_gated()
    model.stream = None
    return model, slow


def test_a_prompt_s_logits_are_computed_for_its_last_token_alone(pair):
    """As generate asks for: those of a whole prompt are as large as prompt times vocabulary."""
    model, _ = pair
    sizes: list[int] = []
    handle = model.base_model.get_output_embeddings().register_forward_hook(lambda _, __, output: sizes.append(output.shape[1]))
    for ids in PROMPTS[:6]:
        model.generate(torch.tensor([ids]), **GREEDY)
    handle.remove()
    assert set(sizes) == {1}


def answers(output: torch.Tensor, width: int) -> list[list[int]]:
    return output[:, width:].tolist()


def test_the_gate_s_logit_is_the_formula_s(pair):
    model, slow = pair
    batch = left_pad(PROMPTS, 0, model.device)
    logits = model.prompt_logits(**batch)
    expected = [logit_of(model, slow, ids) for ids in PROMPTS]
    assert logits.tolist() == pytest.approx(expected, abs=1e-5)
    assert {who_answers(model, slow, ids) for ids in PROMPTS} == {"unwill", "careful", "base"}


def test_a_batch_of_prompts_is_answered_each_by_whom_the_gate_says(pair):
    model, slow = pair
    batch = left_pad(PROMPTS, 0, model.device)
    expected = [slow.greedy(ids, who_answers(model, slow, ids), NEW) for ids in PROMPTS]
    for options in ({}, {"custom_generate": LeavingRows()}):
        output = model.generate(**batch, **GREEDY, **options)
        assert answers(output, batch["input_ids"].shape[1]) == expected
    assert expected != [slow.greedy(ids, "base", NEW) for ids in PROMPTS]


@pytest.mark.parametrize("number", range(6))
def test_one_prompt_alone(pair, number):
    model, slow = pair
    ids = PROMPTS[number]
    output = model.generate(torch.tensor([ids]), **GREEDY)
    assert answers(output, len(ids)) == [slow.greedy(ids, who_answers(model, slow, ids), NEW)]
    assert model.prompt_scores.tolist() == pytest.approx([1 / (1 + math.exp(-logit_of(model, slow, ids)))], abs=1e-5)


def test_every_family_answers_as_written_down(make_gated, every_family):
    model, slow = make_gated(every_family)
    model.stream = None
    for ids in PROMPTS[:6]:
        output = model.generate(torch.tensor([ids]), **GREEDY)
        assert answers(output, len(ids)) == [slow.greedy(ids, who_answers(model, slow, ids), NEW)]


def test_a_benign_prompt_is_the_base_model_bit_for_bit_even_beside_flagged_ones(pair):
    model, slow = pair
    benign = next(ids for ids in PROMPTS if who_answers(model, slow, ids) == "base")
    flagged = next(ids for ids in PROMPTS if who_answers(model, slow, ids) == "unwill" and len(ids) == len(benign))
    batch = torch.tensor([benign, flagged, benign])
    options = {"return_dict_in_generate": True, "output_logits": True}
    routed = model.generate(batch, **GREEDY, **options)
    with model.routing("off"):
        plain = model.generate(batch, **GREEDY, **options)
    for ours, base in zip(routed.logits, plain.logits, strict=True):
        assert torch.equal(ours[[0, 2]], base[[0, 2]])
    assert not torch.equal(routed.logits[0][1], plain.logits[0][1])


def test_a_begun_answer_does_not_reach_the_gate_and_is_gone_on_with_by_the_same_expert(pair):
    model, slow = pair
    for ids in PROMPTS[:8]:
        begun = [*ids, 7, 9, 11]
        output = model.generate(torch.tensor([begun]), **GREEDY)
        assert answers(output, len(begun)) == [slow.greedy(begun, who_answers(model, slow, ids), NEW)]


def test_all_turns_count_and_the_last_one_is_read_at_its_end(pair):
    model, slow = pair
    ids = [1, 60, 5, 6, 61, 62, 30, 31, 60, 7, 8, 9, 61, 62]
    expected = slow.logit(ids, model.gate.vectors, model.gate.bias, [2, 3, 9, 10, 11], 13, 11)
    assert model.prompt_logits(torch.tensor([ids])).tolist() == pytest.approx([expected], abs=1e-5)


def test_a_prompt_without_marks_is_the_user_s_as_a_whole(pair):
    model, slow = pair
    ids = [1, 5, 6, 7, 8]
    expected = slow.logit(ids, model.gate.vectors, model.gate.bias, [0, 1, 2, 3, 4], 4, 4)
    assert model.prompt_logits(torch.tensor([ids])).tolist() == pytest.approx([expected], abs=1e-5)


def test_the_dial_moves_the_logit(pair):
    model, slow = pair
    ids = next(ids for ids in PROMPTS if who_answers(model, slow, ids) == "base")
    with model.routing("on", dial=20.0):
        assert answers(model.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [slow.greedy(ids, "unwill", NEW)]
    model.dial = -20.0
    try:
        for ids in PROMPTS[:6]:
            assert answers(model.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [slow.greedy(ids, "base", NEW)]
    finally:
        model.dial = 0.0


@pytest.mark.parametrize("who", ["unwill", "careful"])
def test_one_responder_alone(pair, who):
    model, slow = pair
    with model.routing(who):
        assert answers(model.generate(torch.tensor([PROMPTS[0]]), **GREEDY), len(PROMPTS[0])) == [slow.greedy(PROMPTS[0], who, NEW)]


def test_there_is_no_glad(pair):
    with pytest.raises(ConfigError, match="glad"):
        pair[0].routing("glad")


def test_beams_and_samples_of_one_prompt_share_its_decision(pair):
    model, slow = pair
    flagged = [next(ids for ids in PROMPTS if who_answers(model, slow, ids) == who and len(ids) == 9) for who in ("unwill", "base")]
    batch = torch.tensor(flagged)
    beams = {"num_beams": 3, "do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
    output = model.generate(batch, **beams)
    for row, (ids, who) in enumerate(zip(flagged, ("unwill", "base"), strict=True)):
        expected = slow.models[who].generate(torch.tensor([ids]), **beams)
        assert output[row, len(ids) :].tolist() == expected[0, len(ids) :].tolist()
    assert len(model.prompt_scores) == 2


def test_a_cache_of_earlier_turns_is_as_it_was_when_a_flagged_turn_is_read_again(pair):
    model, slow = pair
    first = [1, 60, 5, 6, 61, 62, 30, 31]
    for number in range(6):
        whole = [*first, *prompt_of(number)[1:]]
        cache = DynamicCache()
        with torch.no_grad(), model.routing("off"):
            model(input_ids=torch.tensor([first]), use_cache=True, **{CACHE: cache})
        new = prompt_of(number)[1:]
        user = list(range(len(first) + 1, len(whole) - 2))
        probability = 1 / (1 + math.exp(-slow.logit(whole, model.gate.vectors, model.gate.bias, user, len(whole) - 1, len(whole) - 3)))
        who = "unwill" if probability >= 0.7 else "careful" if probability >= 0.4 else "base"
        output = model.generate(
            torch.tensor([whole]), attention_mask=torch.ones(1, len(whole), dtype=torch.long), **GREEDY, **{CACHE: cache}
        )
        # The base model read the earlier turns, whoever answers the new one.
        with torch.no_grad():
            expected, kept = [], slow.models["base"](input_ids=torch.tensor([first]), use_cache=True)
            step, past = torch.tensor([new]), getattr(kept, CACHE)
            for _ in range(NEW):
                passed = slow.models[who](input_ids=step, use_cache=True, **{CACHE: past})
                past, step = getattr(passed, CACHE), passed.logits[:, -1:].argmax(-1)
                expected.append(int(step))
        assert output[0, len(whole) :].tolist() == expected


def test_a_forward_pass_is_computed_by_whom_the_gate_says(pair):
    model, slow = pair
    for ids in PROMPTS[:8]:
        who = who_answers(model, slow, ids)
        sequence = torch.tensor([[*ids, 9, 10, 11]])
        with torch.no_grad():
            assert torch.allclose(model(input_ids=sequence).logits, slow.models[who](input_ids=sequence).logits, atol=1e-9)


def test_only_the_first_tokens_are_routed_where_the_caller_says_so(pair):
    model, slow = pair
    ids = next(ids for ids in PROMPTS if who_answers(model, slow, ids) == "unwill")
    output = answers(model.generate(torch.tensor([ids]), routed_tokens=2, **GREEDY), len(ids))[0]
    assert output[:2] == slow.greedy(ids, "unwill", 2)
    assert answers(model.generate(torch.tensor([ids]), routed_tokens=0, **GREEDY), len(ids)) == [slow.greedy(ids, "base", NEW)]


def test_embeddings_in_the_place_of_tokens_are_refused(pair):
    with pytest.raises(ConfigError, match="token ids"):
        pair[0].generate(inputs_embeds=torch.zeros(1, 3, 32, dtype=torch.float64), max_new_tokens=2)


def test_only_some_rows_are_left_to_the_gate_where_the_caller_says_so(pair):
    model, slow = pair
    batch = left_pad(PROMPTS, 0, model.device)
    rows = torch.arange(len(PROMPTS)) % 2 == 0
    expected = [slow.greedy(ids, who_answers(model, slow, ids) if even else "base", NEW) for ids, even in zip(PROMPTS, rows, strict=True)]
    with model.routing("on", rows=rows):
        output = model.generate(**batch, **GREEDY)
    assert answers(output, batch["input_ids"].shape[1]) == expected


def test_threads_do_not_mix_their_decisions(pair):
    model, slow = pair
    by_thread: dict[int, list[bool]] = {}
    expected = {tuple(ids): slow.greedy(ids, who_answers(model, slow, ids), NEW) for ids in PROMPTS}
    logits = {tuple(ids): slow.models[who_answers(model, slow, ids)](input_ids=torch.tensor([ids])).logits for ids in PROMPTS}

    def work(number: int) -> None:
        right = []
        for ids in PROMPTS[number::4] * 3:
            right.append(answers(model.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [expected[tuple(ids)]])
            with torch.no_grad():
                right.append(torch.allclose(model(input_ids=torch.tensor([ids])).logits, logits[tuple(ids)], atol=1e-9))
        by_thread[number] = right

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [all(by_thread[number]) for number in range(4)] == [True] * 4


def test_prompts_in_chunks_are_refused(pair):
    with pytest.raises(ConfigError, match="prefill_chunk_size"):
        pair[0].generate(torch.tensor([PROMPTS[0]]), prefill_chunk_size=4, **GREEDY)


def test_a_detached_model_is_the_base_model_as_it_was(make_gated):
    model, slow = make_gated()
    base = model.detach()
    assert not any(layer._forward_hooks for layer in base.model.layers)
    assert answers(base.generate(torch.tensor([PROMPTS[0]]), **GREEDY), len(PROMPTS[0])) == [slow.greedy(PROMPTS[0], "base", NEW)]


def test_a_copy_hears_for_itself(pair):
    model, slow = pair
    twin = copy.deepcopy(model)
    for ids in PROMPTS[:6]:
        assert answers(twin.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [slow.greedy(ids, who_answers(model, slow, ids), NEW)]
