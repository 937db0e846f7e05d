"""Routed generation against decoding written out in ``tests.reference.SlowRouted`` and against Hugging Face's own."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.inference.padding import left_pad
from mogu.transformers_compat import CACHE, cache_of

pytestmark = pytest.mark.core

PROMPT = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]])
GREEDY = {"do_sample": False, "max_new_tokens": 10}
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair("llama")


@pytest.fixture(scope="module")
def model(pair) -> MoguModel:
    return pair[0]


def answer(output: torch.Tensor, prompt: torch.Tensor = PROMPT) -> list[int]:
    return output[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("routed_tokens", [0, 1, 2, 5, 9, 10, 11, "all"])
def test_every_length_of_the_opening(pair, routed_tokens):
    model, slow = pair
    expected = slow.greedy(PROMPT, routed_tokens=routed_tokens, new_tokens=10)
    assert answer(model.generate(PROMPT, routed_tokens=routed_tokens, **GREEDY)) == expected
    expected = slow.greedy_continued(PROMPT, routed_tokens=10 if routed_tokens == "all" else routed_tokens, new_tokens=10)
    assert answer(model.generate(PROMPT, routed_tokens=routed_tokens, handoff="continue", **GREEDY)) == expected


def test_the_defaults_are_the_config_s(make_pair):
    model, slow = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, routed_tokens=2, handoff="continue"))
    assert answer(model.generate(PROMPT, **GREEDY)) == slow.greedy_continued(PROMPT, routed_tokens=2, new_tokens=10)
    model.mogu_config.handoff = "recompute"
    assert answer(model.generate(PROMPT, **GREEDY)) == slow.greedy(PROMPT, routed_tokens=2, new_tokens=10)
    assert MoguConfig().routed_tokens == 5


def test_the_two_handoffs_differ(pair):
    """Otherwise the tests above could not tell them apart."""
    _, slow = pair
    recomputed = slow.greedy(PROMPT, routed_tokens=5, new_tokens=10)
    continued = slow.greedy_continued(PROMPT, routed_tokens=5, new_tokens=10)
    assert recomputed[:5] == continued[:5]
    assert recomputed != continued


@both_handoffs
def test_an_opening_longer_than_the_answer(pair, handoff):
    model, slow = pair
    output = model.generate(PROMPT, do_sample=False, max_new_tokens=2, routed_tokens=5, handoff=handoff)
    assert answer(output) == slow.greedy(PROMPT, routed_tokens=2, new_tokens=2)
    assert model.routing_mode == "on"


@both_handoffs
def test_answers_that_end_inside_the_opening(pair, handoff):
    """The first row ends within the opening; the second goes on, and is what it is alone."""
    model, slow = pair
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    other = torch.tensor([[11, 6, 29, 44, 8, 52, 37, 15, 61, 10]])
    alone = [reference(ids, routed_tokens=4, new_tokens=10) for ids in (PROMPT, other)]
    end = next(token for token in alone[0][:3] if token not in alone[1])
    options = {"eos_token_id": end, "pad_token_id": 0, "routed_tokens": 4, "handoff": handoff}
    batch = model.generate(torch.cat([PROMPT, other]), **GREEDY, **options)[:, 10:].tolist()
    cut = alone[0].index(end) + 1
    assert batch[0] == alone[0][:cut] + [0] * (10 - cut)
    assert batch[1] == alone[1]
    assert answer(model.generate(PROMPT, **GREEDY, **options)) == alone[0][:cut]


@both_handoffs
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon-alibi", "mistral"])
def test_batched_equals_one_by_one(make_pair, family, handoff):
    model, _ = make_pair(family)
    prompts = [[5, 9, 33], [12], [60, 7, 41, 22, 18, 50, 31, 30], [8, 8]]
    options = {**GREEDY, "routed_tokens": 3, "handoff": handoff, "pad_token_id": 0}
    batch = model.generate(**left_pad(prompts, 0, torch.device("cpu")), **options)[:, 8:]
    scores = model.prompt_scores
    for row, prompt in enumerate(prompts):
        assert answer(model.generate(torch.tensor([prompt]), **options), torch.tensor([prompt])) == batch[row].tolist()
        torch.testing.assert_close(model.prompt_scores, scores[row : row + 1])


@both_handoffs
def test_prompts_at_the_context_limit(make_pair, handoff):
    model, slow = make_pair("gpt2")
    prompt = torch.arange(58)[None] % 50 + 5
    assert model.config.n_positions == 64
    output = model.generate(prompt, do_sample=False, max_new_tokens=6, routed_tokens=4, handoff=handoff)
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    assert answer(output, prompt) == reference(prompt, routed_tokens=4, new_tokens=6)


@both_handoffs
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_prompts_longer_than_the_sliding_window(make_pair, family, handoff):
    model, slow = make_pair(family)
    prompt = torch.arange(20)[None] * 7 % 50 + 5
    assert model.config.sliding_window == 6
    output = model.generate(prompt, **GREEDY, routed_tokens=3, handoff=handoff)
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    assert answer(output, prompt) == reference(prompt, routed_tokens=3, new_tokens=10)


@both_handoffs
@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
        {"generation_config": GenerationConfig(do_sample=False, max_new_tokens=10)},
        {CACHE: None},
        {"attention_mask": torch.ones_like(PROMPT)},
        {"num_return_sequences": 1, "num_beams": 1},
        {"repetition_penalty": 1.0, "max_length": 20, "max_new_tokens": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_hugging_face_takes(pair, handoff, options):
    model, slow = pair
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    if CACHE in options:
        options = {CACHE: DynamicCache()}
    arguments = ({} if "generation_config" in options else GREEDY) | options
    assert answer(model.generate(PROMPT, routed_tokens=3, handoff=handoff, **arguments)) == reference(
        PROMPT, routed_tokens=3, new_tokens=10
    )


def test_input_ids_by_name(model):
    expected = model.generate(PROMPT, **GREEDY, routed_tokens=3)
    assert torch.equal(model.generate(input_ids=PROMPT, **GREEDY, routed_tokens=3), expected)


@both_handoffs
def test_a_static_cache_in_a_sliding_window_model(make_pair, handoff):
    model, slow = make_pair("mistral")
    prompt = torch.arange(20)[None] * 7 % 50 + 5
    reference = slow.greedy if handoff == "recompute" else slow.greedy_continued
    output = model.generate(prompt, **GREEDY, routed_tokens=3, handoff=handoff, cache_implementation="static")
    assert answer(output, prompt) == reference(prompt, routed_tokens=3, new_tokens=10)


def test_inputs_embeds_go_on_with_the_cache(pair):
    model, slow = pair
    embeds = model.get_input_embeddings()(PROMPT)
    output = model.generate(inputs_embeds=embeds, **GREEDY, routed_tokens=3, handoff="continue")
    assert output[0].tolist() == slow.greedy_continued(PROMPT, routed_tokens=3, new_tokens=10)
    everything = model.generate(inputs_embeds=embeds, **GREEDY, routed_tokens="all")
    assert everything[0].tolist() == slow.greedy(PROMPT, routed_tokens="all", new_tokens=10)


@both_handoffs
@pytest.mark.parametrize("whole", [True, False], ids=["whole conversation", "new part only"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_a_second_turn_on_the_cache_of_the_first(make_pair, family, whole, handoff, chunk):
    """What the base model read in the first turn stays; the second turn is decoded as written out here."""
    if chunk and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("older transformers answer wrongly from chunks on a filled cache, also without MoGU")
    model, slow = make_pair(family)
    first, second = PROMPT, torch.tensor([[13, 35, 6, 11, 29, 44, 8]])
    cache = DynamicCache(config=model.config)
    with model.routing("off"):
        model(input_ids=first, use_cache=True, **{CACHE: cache})
    conversation = torch.cat([first, second], dim=1)
    mask = torch.ones_like(conversation)
    given = conversation if whole else second
    options = GREEDY | {"routed_tokens": 3, "handoff": handoff, CACHE: cache, "attention_mask": mask}
    output = model.generate(given, **options, **({"prefill_chunk_size": chunk} if chunk else {}))

    slow.route(False)
    with torch.no_grad():
        past = cache_of(slow.model(input_ids=first, use_cache=True, **{CACHE: DynamicCache(config=model.config)}))
        before = copy.deepcopy(past)
        expected, step = [], second
        for number in range(10):
            if number == 3 and handoff == "recompute":
                past, step = before, torch.cat([second, torch.tensor([expected])], dim=1)
            slow.route(number < 3)
            result = slow.model(input_ids=step, use_cache=True, **{CACHE: past})
            past, step = cache_of(result), result.logits[:, -1:].argmax(-1)
            expected.append(int(step))
    assert answer(output, given) == expected
    assert cache.get_seq_length() == conversation.shape[1] + 9


def test_scores_are_the_logits_of_the_passes_made(pair):
    model, slow = pair
    output = model.generate(PROMPT, **GREEDY, routed_tokens=3, return_dict_in_generate=True, output_scores=True)
    assert len(output.scores) == 10
    for step, scores in enumerate(output.scores):
        expected = slow.logits(output.sequences[:, : 10 + step], routed=step < 3)[:, -1]
        torch.testing.assert_close(scores.double(), expected, atol=1e-4, rtol=1e-4)


def test_the_prompts_scores_come_with_the_answers(pair):
    model, slow = pair
    model.generate(PROMPT, **GREEDY)
    slow.logits(PROMPT)
    shares = [layer.unwill_weight[0, -1] / (layer.unwill_weight[0, -1] + layer.glad_weight[0, -1]) for layer in slow.layers]
    torch.testing.assert_close(model.prompt_scores.double(), torch.stack(shares).mean()[None], atol=1e-6, rtol=0)


class StopAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


@pytest.mark.parametrize("length", [2, 3, 6])
def test_stopping_criteria(pair, length):
    model, slow = pair
    stop = StoppingCriteriaList([StopAt(10 + length)])
    output = model.generate(PROMPT, **GREEDY, routed_tokens=3, stopping_criteria=stop)
    assert answer(output) == slow.greedy(PROMPT, routed_tokens=3, new_tokens=length)


@pytest.mark.parametrize("place", [1, 5])
def test_stop_strings(pair, tokenizer, place):
    """Inside the opening and after it."""
    model, slow = pair
    expected = slow.greedy(PROMPT, routed_tokens=3, new_tokens=10)
    stop = tokenizer.decode([expected[place]])
    output = model.generate(PROMPT, **GREEDY, routed_tokens=3, stop_strings=[stop], tokenizer=tokenizer)
    assert answer(output) == expected[: expected.index(expected[place]) + 1]


def test_a_streamer_in_a_thread(pair, tokenizer):
    model, slow = pair
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=model.generate, args=(PROMPT,), kwargs={**GREEDY, "routed_tokens": 3, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(slow.greedy(PROMPT, routed_tokens=3, new_tokens=10))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"routed_tokens": -1}, "routed_tokens is -1"),
        ({"routed_tokens": 2.5}, r"routed_tokens is 2\.5"),
        ({"routed_tokens": True}, "routed_tokens is True"),
        ({"handoff": "jump"}, "handoff is 'jump'"),
        ({"use_cache": False}, "use_cache=False"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"generation_config": GenerationConfig(prompt_lookup_num_tokens=2)}, "prompt_lookup_num_tokens"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds"),
    ],
)
def test_options_that_do_not_go_together(model, options, found):
    with pytest.raises(ConfigError, match=found):
        model.generate(PROMPT, **options)
    assert model.routing_mode == "on"


def test_after_an_error_the_model_is_as_before(pair):
    model, slow = pair

    def fail(*_):
        raise ValueError("out of patience")

    with pytest.raises(ValueError, match="patience"):
        model.generate(PROMPT, **GREEDY, routed_tokens=3, prefix_allowed_tokens_fn=fail)
    assert model.routing_mode == "on"
    assert "prepare_inputs_for_generation" not in vars(model.base_model)
    assert answer(model.generate(PROMPT, **GREEDY, routed_tokens=3)) == slow.greedy(PROMPT, routed_tokens=3, new_tokens=10)


@pytest.mark.parametrize("mode", ["off", "glad", "unwill"])
def test_another_mode_lasts_for_the_whole_answer(pair, mode):
    model, _ = pair
    with model.routing(mode):
        output = model.generate(PROMPT, **GREEDY)
        for step in range(10):
            with torch.no_grad():
                assert int(model(output[:, : 10 + step], use_cache=False).logits[0, -1].argmax()) == int(output[0, 10 + step])
    if mode == "off":
        base = model.base_model.generate  # routed layers switched off: Hugging Face's own method on the base
        with model.routing("off"):
            assert torch.equal(base(PROMPT, **GREEDY), output)
