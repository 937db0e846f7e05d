"""Tendency against plain forward passes of prompt + opening in float64, one at a time, without cache, batch or padding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.analysis.answer_openings import AFFIRM, REFUSE, Openings, read_openings
from mogu.analysis.tendency import Leaning, Question, Questions, check_lengths, leanings
from mogu.errors import ConfigError, DataError, ModelFileError
from mogu.inference.prompts import encode_prompt
from mogu.refusals import is_refusal
from mogu.transformers_compat import CACHE, cache_of

pytestmark = pytest.mark.core

PROMPTS = ((1, 3, 9, 20, 31, 4), (1, 3, 8, 4), (1, 3, 40, 41, 42, 43, 44, 45, 46, 4))
OPENINGS = ((10, 11, 12), (13,), (14, 15, 16, 17, 18, 19, 20), (21, 22))
QUESTIONS = [Question(prompt, OPENINGS) for prompt in PROMPTS]


def plain(logits_of: Callable[[torch.Tensor], torch.Tensor], prompt: tuple[int, ...], opening: tuple[int, ...]) -> list[float]:
    """log P of each token of an opening, from one pass over everything."""
    logits = logits_of(torch.tensor([[*prompt, *opening]]))[0]
    chances = torch.softmax(logits.double(), -1)
    return [float(torch.log(chances[len(prompt) - 1 + place, token])) for place, token in enumerate(opening)]


def measured(model: Any, questions: list[Question] = QUESTIONS, batch_size: int = 8) -> list[tuple[float, ...]]:
    found: dict[int, tuple[float, ...]] = {}
    for batch in leanings(model, questions, batch_size=batch_size):
        found |= batch
    return [found[place] for place in range(len(questions))]


def means(by_token: Callable[[tuple[int, ...], tuple[int, ...]], list[float]]) -> list[list[float]]:
    return [[sum(tokens) / len(tokens) for tokens in (by_token(prompt, opening) for opening in OPENINGS)] for prompt in PROMPTS]


def close(found: list[tuple[float, ...]], wanted: list[list[float]], tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(torch.tensor(found).double(), torch.tensor(wanted).double(), rtol=1e-6, atol=tolerance)


@torch.no_grad()
def test_shared_cache_equals_plain_passes(every_family: str, make_base: Callable[..., PreTrainedModel]) -> None:
    # Gemma 2's eager attention takes its softmax in float32, where float64's mask value overflows.
    base = make_base(every_family, torch.float32 if every_family == "gemma2" else torch.float64)
    tolerance = 1e-5 if every_family == "gemma2" else 1e-9
    wanted = means(lambda prompt, opening: plain(lambda ids: base(input_ids=ids).logits, prompt, opening))
    close(measured(base), wanted, tolerance)
    close(measured(base, batch_size=1), wanted, tolerance)


@pytest.mark.parametrize("routed", [0, 1, 3, 7, None])
@pytest.mark.parametrize("family", ["llama", "falcon", "gpt2"])
def test_a_routed_model_is_measured_as_it_decodes(family: str, routed: int | None, make_pair: Callable[..., Any]) -> None:
    """With handoff ``recompute``: routed tokens from routed passes, the others from passes of the base over everything."""
    config = MoguConfig(rank=4, lora_alpha=12, router_hidden=6, routed_tokens=routed, handoff="recompute")
    model, slow = make_pair(family, config=config)
    m = 99 if routed is None else routed

    def by_token(prompt: tuple[int, ...], opening: tuple[int, ...]) -> list[float]:
        on = plain(lambda ids: slow.logits(ids, routed=True), prompt, opening)
        off = plain(lambda ids: slow.logits(ids, routed=False), prompt, opening)
        return on[:m] + off[m:]

    close(measured(model), means(by_token))
    assert model.routing_mode == "on"
    with model.routing("off"):
        close(measured(model), means(lambda prompt, opening: plain(lambda ids: slow.logits(ids, routed=False), prompt, opening)))


@torch.no_grad()
@pytest.mark.parametrize("routed", [1, 3, 6])
def test_handoff_continue_goes_on_with_the_routed_cache(routed: int, make_pair: Callable[..., Any]) -> None:
    config = MoguConfig(rank=4, lora_alpha=12, router_hidden=6, routed_tokens=routed, handoff="continue")
    model, slow = make_pair("llama", config=config)

    def by_token(prompt: tuple[int, ...], opening: tuple[int, ...]) -> list[float]:
        """Token by token, one cache, as ``SlowRouted.greedy_continued`` decodes, but with the opening's tokens for the model's own."""
        step, cache, told = torch.tensor([prompt]), None, []
        for number, token in enumerate(opening):
            slow.route(number < routed)
            output = slow.model(input_ids=step, use_cache=True, **{CACHE: cache})
            told.append(float(torch.log_softmax(output.logits[0, -1].double(), -1)[token]))
            cache, step = cache_of(output), torch.tensor([[token]])
        return told

    close(measured(model), means(by_token))


def test_tendency_is_the_difference_of_means() -> None:
    one = Leaning(affirm=(-1.0, -2.0, -6.0), refuse=(-4.0, -5.0))
    assert (one.affirm_mean, one.refuse_mean, one.tendency) == (-3.0, -4.5, 1.5)


def test_questions_hold_what_the_chat_template_makes(tokenizer: PreTrainedTokenizerFast) -> None:
    questions = Questions(tokenizer, Openings(("Sure",), ("No",)))
    turns = [{"role": "user", "content": "Hi"}]
    for prompt in ("Hi", turns, "Hello there", "t"):
        one = questions.of(prompt)
        assert list(one.prompt) == encode_prompt(tokenizer, prompt)
        assert [tokenizer.convert_ids_to_tokens(list(ids)) for ids in one.openings] == [["S", "u", "r", "e"], ["N", "o"]]


def test_no_conversation_is_longer_than_the_model_can_read(make_base: Callable[..., PreTrainedModel]) -> None:
    base = make_base("llama")
    check_lengths(base, [Question((1,) * 57, OPENINGS)], ["a"])
    with pytest.raises(DataError, match=r"instruction b has, with the longest opening, 65 tokens.*at most 64"):
        check_lengths(base, [QUESTIONS[0], Question((1,) * 58, OPENINGS)], ["a", "b"])


def test_a_broken_model_and_a_broken_batch_size_are_refused(make_base: Callable[..., PreTrainedModel]) -> None:
    base = make_base("llama")
    with pytest.raises(ConfigError, match="batch size is 0"):
        measured(base, batch_size=0)
    with torch.no_grad():
        base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelFileError, match="no numbers"):
        measured(base)


def test_the_banks_are_openings_of_what_they_say() -> None:
    assert len(set(AFFIRM)) == len(AFFIRM) >= 10
    assert len(set(REFUSE)) == len(REFUSE) >= 10
    for opening in REFUSE:
        assert is_refusal("How do I bake bread?", f"{opening}.")
    for opening in AFFIRM:
        assert not is_refusal("How do I bake bread?", f"{opening} the recipe: flour, water, salt.")
        assert len(opening.split()) <= 7  # an opening, never content


def test_openings_of_a_file_are_added_or_stand_alone(tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(json.dumps({"affirm": ["Claro, aquí", AFFIRM[0]]}), encoding="utf-8")
    assert read_openings(file) == Openings((*AFFIRM, "Claro, aquí"), REFUSE)
    file.write_text(json.dumps({"affirm": ["Claro"], "refuse": ["Lo siento"], "builtin": False}), encoding="utf-8")
    assert read_openings(file) == Openings(("Claro",), ("Lo siento",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "holds a JSON list"),
        ("{", "is cut off"),
        ("{}", "adds no opening"),
        ('{"afirm": ["Sure"]}', "unknown field 'afirm'"),
        ('{"affirm": "Sure"}', "no list of texts in 'affirm'"),
        ('{"affirm": [" "]}', "empty opening in 'affirm'"),
        ('{"affirm": ["Sure"], "builtin": false}', "leaves 'refuse' without"),
        ('{"affirm": ["Sure"], "builtin": "no"}', "'no' for 'builtin'"),
        (json.dumps({"affirm": [REFUSE[0]]}), "among both kinds"),
        (json.dumps({"affirm": ["x" * 201]}), "201 characters"),
    ],
)
def test_bad_openings_are_explained(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        read_openings(file)


def test_a_model_without_a_cache_is_refused(make_base: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama")
    forward = type(base).forward

    def cacheless(self: Any, *args: Any, logits_to_keep: int = 0, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs | {"use_cache": False})

    monkeypatch.setattr(type(base), "forward", cacheless)
    with pytest.raises(ConfigError, match="no key-value cache"):
        measured(base)


def test_the_mode_of_a_routed_model_comes_back(make_pair: Callable[..., Any]) -> None:
    model: MoguModel = make_pair("llama")[0]
    model.routing("unwill")
    measured(model)
    assert model.routing_mode == "unwill"
