"""Rows that leave change nothing that is generated: the library's own loop, prompt by prompt or with all rows, is the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad

NEW = 16
ENDS = [3, 9, 17, 28, 40, 51]  # of 64 tokens, so that replies of random models end here and there
GREEDY = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": ENDS}


def random_prompts(count: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(3)
    lengths = torch.randint(10, 15, (count,), generator=random).tolist()  # padding shorter than the window of the models that have one
    return [torch.randint(5, 64, (length,), generator=random).tolist() for length in lengths]


PROMPTS = random_prompts(9)
BATCH = left_pad(PROMPTS, 0, torch.device("cpu"))
LONGEST = BATCH["input_ids"].shape[1]


def one_by_one(model: PreTrainedModel, prompts: list[list[int]] = PROMPTS, **options: Any) -> list[list[int]]:
    """What plain ``generate`` replies to each prompt alone, its end included."""
    return [model.generate(torch.tensor([prompt]), **GREEDY | options)[0, len(prompt) :].tolist() for prompt in prompts]


def until_end(reply: list[int], ends: list[int] = ENDS) -> list[int]:
    return reply[: next((place + 1 for place, token in enumerate(reply) if token in ends), len(reply))]


def replies_of(output: Tensor, prompt_tokens: int = LONGEST, ends: list[int] = ENDS) -> list[list[int]]:
    return [until_end(reply, ends) for reply in output[:, prompt_tokens:].tolist()]


@contextmanager
def counted_rows(model: PreTrainedModel) -> Iterator[list[int]]:
    """The number of rows in each forward pass."""
    rows: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


def rows_not_ended(lengths: list[int]) -> list[int]:
    """Rows of each pass when all that have ended are gone: the first reads the prompts, the one that makes token k those still going on."""
    return [sum(length > made for length in lengths) for made in range(max(lengths))]


def test_every_family_replies_as_it_does_to_each_prompt_alone(make_base: Callable[..., PreTrainedModel], every_family: str) -> None:
    model = make_base(every_family)
    # In the library, padding disturbs a random Gemma 2 in float64.
    prompts = [prompt[:10] for prompt in PROMPTS] if every_family == "gemma2" else PROMPTS
    endless = one_by_one(model, prompts, eos_token_id=None)
    ends = [reply[place] for place, reply in enumerate(endless) if place % 3 == 1]  # some reply ends early, some later
    expected = [until_end(reply, ends) for reply in endless]
    assert len({len(reply) for reply in expected}) > 1
    batch = left_pad(prompts, 0, model.device)
    with counted_rows(model) as rows:
        output = model.generate(**batch, custom_generate=LeavingRows(), **GREEDY | {"eos_token_id": ends})
    assert replies_of(output, batch["input_ids"].shape[1], ends) == expected
    lengths = [len(reply) for reply in expected]
    recurrent = every_family in ("lfm2", "qwen3_5_text")  # in some layers: what they remember cannot be had for single rows
    assert rows == ([len(prompts)] * max(lengths) if recurrent else rows_not_ended(lengths))


@pytest.mark.parametrize("changes", [{"eos_token_id": list(range(64))}, {"eos_token_id": None}, {"max_new_tokens": 1}])
def test_where_no_row_ends_before_another_none_leaves(make_base: Callable[..., PreTrainedModel], changes: dict[str, Any]) -> None:
    model = make_base()
    with counted_rows(model) as rows:
        output = model.generate(**BATCH, custom_generate=LeavingRows(), **GREEDY | changes)
    assert torch.equal(output, model.generate(**BATCH, **GREEDY | changes))
    assert set(rows) == {len(PROMPTS)}


def test_prompts_of_one_length_need_no_padding(make_base: Callable[..., PreTrainedModel]) -> None:
    model = make_base()
    prompts = [prompt[:10] for prompt in PROMPTS]
    with counted_rows(model) as rows:
        output = model.generate(torch.tensor(prompts), custom_generate=LeavingRows(), **GREEDY)
    assert replies_of(output, 10) == one_by_one(model, prompts)
    assert min(rows) < len(prompts)


def test_rows_stay_as_long_as_they_are_held(make_base: Callable[..., PreTrainedModel]) -> None:
    model = make_base()
    lengths = [len(reply) for reply in one_by_one(model)]
    assert min(lengths) < 4
    with counted_rows(model) as rows:
        output = model.generate(**BATCH, custom_generate=LeavingRows(hold=4), **GREEDY)
    assert replies_of(output) == one_by_one(model)
    assert rows == [len(PROMPTS)] * 5 + rows_not_ended(lengths)[5:]


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.8, "top_k": 0},
        {"do_sample": True, "top_p": 0.7, "top_k": 12},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6},
        {"begin_suppress_tokens": list(range(5, 30))},
        {"stopping_criteria": "a token below 12"},
    ],
    ids=str,
)
def test_sampling_penalties_and_criteria_see_all_rows(make_base: Callable[..., PreTrainedModel], options: dict[str, Any]) -> None:
    model = make_base()
    ends = ENDS
    if "stopping_criteria" in options:
        options, ends = {"stopping_criteria": StoppingCriteriaList([_BelowTwelve()])}, [*ENDS, *range(12)]
    torch.manual_seed(5)
    expected = model.generate(**BATCH, **GREEDY | options)
    torch.manual_seed(5)
    with counted_rows(model) as rows:
        found = model.generate(**BATCH, custom_generate=LeavingRows(), **GREEDY | options)
    assert torch.equal(found, expected)
    assert rows == rows_not_ended([len(reply) for reply in replies_of(expected, ends=ends)])


class _BelowTwelve(StoppingCriteria):
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return input_ids[:, -1] < 12


@pytest.mark.parametrize("implementation", ["static", "offloaded"])
def test_all_rows_stay_in_a_cache_that_cannot_let_them_go(make_base: Callable[..., PreTrainedModel], implementation: str) -> None:
    if implementation == "offloaded" and not torch.cuda.is_available():
        pytest.skip("a cache is offloaded from an accelerator, and there is none")
    model = make_base()
    with counted_rows(model) as rows:
        output = model.generate(**BATCH, custom_generate=LeavingRows(), cache_implementation=implementation, **GREEDY)
    assert replies_of(output) == one_by_one(model)
    assert set(rows) == {len(PROMPTS)}


def test_all_rows_stay_in_a_recurrent_model() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "pad_token_id": 0, "bos_token_id": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **shape)).eval()
    with counted_rows(model) as rows:
        output = model.generate(**BATCH, custom_generate=LeavingRows(), **GREEDY)
    assert torch.equal(output, model.generate(**BATCH, **GREEDY))
    assert set(rows) == {len(PROMPTS)}


def test_two_calls_at_once_do_not_disturb_each_other(make_base: Callable[..., PreTrainedModel]) -> None:
    model = make_base()
    halves = [PROMPTS[:5], PROMPTS[5:]]
    found: dict[int, list[list[int]]] = {}

    def reply(which: int) -> None:
        batch = left_pad(halves[which], 0, torch.device("cpu"))
        for _ in range(5):
            output = model.generate(**batch, custom_generate=LeavingRows(), **GREEDY)
            found[which] = replies_of(output, batch["input_ids"].shape[1])

    threads = [Thread(target=reply, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {which: one_by_one(model, half) for which, half in enumerate(halves)}
