"""A second routed opening behind the marker that ends a reasoning block, against decoding written out here row by row."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, TextStreamer

from mogu import MoguConfig, MoguModel
from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.inference.padding import left_pad
from mogu.inference.prompts import encode_marker, encode_prompt
from mogu.inference.replies import ReplySettings
from mogu.modeling.config import BackboneConfig
from mogu.modeling.routing import current_controller
from mogu.transformers_compat import CACHE, cache_of

pytestmark = pytest.mark.core

PROMPTS = [[5, 9, 33, 12, 60, 7, 41, 22, 18, 50], [11, 6, 29, 44], [8, 52, 33, 12, 60, 7, 41], [13, 35], [21, 22, 23, 24, 25]]
ENDS: list[int | None] = [0, 2, 6, 9, None]
"""At which token of its answer each row begins to write the marker: at once, in the opening, later, later still, never."""
NEW, M = 16, 3
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])

THINKING = (
    "<s>{% for message in messages %}<{{ message.role }}>{{ message.content.split('</think>')[-1] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if thinks %}<think>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    """The letters' tokenizer with both ends of a reasoning block, and a template that leaves earlier blocks out."""
    tokenizer = make_tokenizer("<think>", "</think>")
    tokenizer.chat_template = THINKING
    return tokenizer


@pytest.fixture(scope="module")
def make_reasoner(make_pair, tokenizer):
    def make(family: str = "llama", **settings):
        model, slow = make_pair(family, config=MoguConfig(**{"rank": 4, "lora_alpha": 12, "answer_marker": "</think>"} | settings))
        model.tokenizer = tokenizer
        return model, slow

    return make


@pytest.fixture(scope="module")
def pair(make_reasoner):
    return make_reasoner()


class Written(LogitsProcessor):
    """Makes rows write a marker, each from its own token on: ``ends[row]``."""

    def __init__(self, prompt_length: int, ends: list[int | None], marker: tuple[int, ...]) -> None:
        self.prompt_length, self.ends, self.marker = prompt_length, ends, marker

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.marker[0]] = -torch.inf  # so that no row writes it by chance
        step = input_ids.shape[1] - self.prompt_length
        for row, end in enumerate(self.ends):
            if end is not None and 0 <= step - end < len(self.marker):
                scores[row] = -torch.inf
                scores[row, self.marker[step - end]] = 0.0
        return scores


def modes(answer: list[int], m: int | None, marker: tuple[int, ...]) -> list[bool]:
    """Whether each token of an answer, and the one after it, is routed: by counting down."""
    left, ended, routed = float("inf") if m == "all" else m, False, []
    for count in range(len(answer) + 1):
        if not ended and count >= len(marker) and tuple(answer[count - len(marker) : count]) == marker:
            left, ended = float("inf") if m == "all" else m, True
        routed.append(left > 0)
        left -= 1
    return routed


@torch.no_grad()
def next_logits(slow, prompt: list[int], answer: list[int], m: int | None, marker: tuple[int, ...], handoff: str) -> Tensor:
    """Logits of one row's next token: one pass over everything (recompute), or all passes made until then (continue)."""
    routed = modes(answer, m, marker)
    if handoff == "recompute":
        return slow.logits(torch.tensor([prompt + answer]), routed=routed[-1])[0, -1]
    cache = DynamicCache(config=slow.model.config)
    for step, mode in zip([prompt, *([token] for token in answer)], routed, strict=True):
        slow.route(mode)
        logits = slow.model(input_ids=torch.tensor([step]), use_cache=True, **{CACHE: cache}).logits
    return logits[0, -1]


def greedy(slow, prompt: list[int], end: int | None, m: int | None, marker: tuple[int, ...], handoff: str, new: int = NEW) -> list[int]:
    answer: list[int] = []
    while len(answer) < new:
        written = end is not None and 0 <= len(answer) - end < len(marker)
        logits = next_logits(slow, prompt, answer, m, marker, handoff)
        logits[marker[0]] = -torch.inf
        answer.append(marker[len(answer) - end] if written else int(logits.argmax()))
    return answer


def generate(model: MoguModel, prompts: list[list[int]], ends: list[int | None], marker: tuple[int, ...], **options) -> list[list[int]]:
    batch = left_pad(prompts, 0, torch.device("cpu"))
    length = batch["input_ids"].shape[1]
    processors = LogitsProcessorList([Written(length, ends, marker)])
    arguments = {"do_sample": False, "max_new_tokens": NEW, "routed_tokens": M, "logits_processor": processors, "pad_token_id": 0}
    return model.generate(**batch, **arguments | options)[:, length:].tolist()


@both_handoffs
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "V2"])
def test_rows_reach_the_marker_at_different_steps(make_reasoner, tokenizer, family, handoff):
    v2 = {"layers": [1, 2], "backbone": BackboneConfig(rank=2)}
    model, slow = make_reasoner("llama", **v2) if family == "V2" else make_reasoner(family)
    marker = encode_marker(tokenizer, "</think>")
    assert len(marker) == 1
    found = generate(model, PROMPTS, ENDS, marker, handoff=handoff)
    assert found == [greedy(slow, prompt, end, M, marker, handoff) for prompt, end in zip(PROMPTS, ENDS, strict=True)]
    assert model.routing_mode == "on"
    assert current_controller(model._scope).rows is None
    for row, (prompt, end) in enumerate(zip(PROMPTS, ENDS, strict=True)):
        assert generate(model, [prompt], [end], marker, handoff=handoff) == [found[row]]
    once = generate(model, PROMPTS, ENDS, marker, handoff=handoff, answer_marker=None)
    assert [one == two for one, two in zip(found, once, strict=True)].count(False) >= 3  # the second opening changes what is said
    assert found[-1] == once[-1]  # a block that never ends


def test_every_family(make_reasoner, tokenizer, every_family):
    """Rows in different phases: some layers are handed the batch flattened, and experts their tokens sorted."""
    model, slow = make_reasoner(every_family, backbone=BackboneConfig(rank=2))
    marker = encode_marker(tokenizer, "</think>")
    prompts, ends = [PROMPTS[0][:5], PROMPTS[2][:5], PROMPTS[4]], [1, 4, None]
    found = generate(model, prompts, ends, marker, max_new_tokens=9)
    assert found == [greedy(slow, prompt, end, M, marker, "recompute", new=9) for prompt, end in zip(prompts, ends, strict=True)]


@both_handoffs
@pytest.mark.parametrize("m", [0, 1, 5, "all"])
def test_every_length_of_the_openings(pair, tokenizer, m, handoff):
    model, slow = pair
    marker = encode_marker(tokenizer, "</think>")
    found = generate(model, PROMPTS, ENDS, marker, handoff=handoff, routed_tokens=m)
    assert found == [greedy(slow, prompt, end, m, marker, handoff) for prompt, end in zip(PROMPTS, ENDS, strict=True)]
    if m in ("all", 0):
        assert found == generate(model, PROMPTS, ENDS, marker, handoff=handoff, routed_tokens=m, answer_marker=None)


@both_handoffs
def test_a_marker_of_several_tokens(pair, tokenizer, handoff):
    model, slow = pair
    marker = encode_marker(tokenizer, "<assistant>ok<user>")
    assert len(marker) == 4
    found = generate(model, PROMPTS, ENDS, marker, handoff=handoff, answer_marker="<assistant>ok<user>")
    assert found == [greedy(slow, prompt, end, M, marker, handoff) for prompt, end in zip(PROMPTS, ENDS, strict=True)]


@both_handoffs
def test_only_the_first_marker_counts(pair, tokenizer, handoff):
    model, slow = pair
    marker = encode_marker(tokenizer, "</think>")

    class Twice(Written):
        def __call__(self, input_ids, scores):
            later = Written(self.prompt_length, [11], self.marker)
            return later(input_ids, scores) if input_ids.shape[1] - self.prompt_length == 11 else super().__call__(input_ids, scores)

    prompt = PROMPTS[0]
    found = generate(model, [prompt], [4], marker, handoff=handoff, logits_processor=LogitsProcessorList([Twice(10, [4], marker)]))[0]
    assert [place for place, token in enumerate(found) if token == marker[0]] == [4, 11]
    for place in range(12, NEW):
        logits = next_logits(slow, prompt, found[:place], M, marker, handoff)
        logits[marker[0]] = -torch.inf
        assert found[place] == int(logits.argmax())


@both_handoffs
@pytest.mark.parametrize(
    "options", [{"cache_implementation": "static"}, {"prefill_chunk_size": 3}], ids=lambda options: next(iter(options))
)
def test_what_hugging_face_takes(pair, tokenizer, options, handoff):
    model, slow = pair
    marker = encode_marker(tokenizer, "</think>")
    found = generate(model, PROMPTS[:1], [6], marker, handoff=handoff, **options)
    assert found == [greedy(slow, PROMPTS[0], 6, M, marker, handoff)]


@both_handoffs
def test_beam_search(pair, tokenizer, handoff):
    """Beams change places, and each is in the phase that its own tokens say."""
    model, slow = pair
    prompt, beams, new = PROMPTS[0], 3, 8
    plain = model.generate(torch.tensor([prompt]), num_beams=beams, max_new_tokens=new, do_sample=False, num_return_sequences=3)
    likely = plain[:, 12:15].flatten().tolist()
    letter = tokenizer.decode([max(set(likely), key=likely.count)])
    marker = encode_marker(tokenizer, letter)

    sequences: list[list[int]] = [[]]
    scores, mixed = torch.zeros(1), False
    for _ in range(new):
        mixed |= len({modes(one, 2, marker)[-1] for one in sequences}) == 2
        steps = torch.stack([next_logits(slow, prompt, one, 2, marker, handoff).float().log_softmax(-1) for one in sequences])
        scores, chosen = (scores[:, None] + steps).flatten().topk(beams)
        sequences = [[*sequences[index // steps.shape[1]], index % steps.shape[1]] for index in chosen.tolist()]
    assert mixed  # or this would be no test
    found = model.generate(
        torch.tensor([prompt]),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=new,
        do_sample=False,
        routed_tokens=2,
        handoff=handoff,
        answer_marker=letter,
    )
    assert found[:, 10:].tolist() == sequences


@both_handoffs
def test_sampling(pair, tokenizer, handoff):
    model, slow = pair
    marker, ends, prompt = encode_marker(tokenizer, "</think>"), [5, 7, None], PROMPTS[0]
    torch.manual_seed(11)
    options = {"do_sample": True, "temperature": 1.3, "top_k": 0, "num_return_sequences": 3, "handoff": handoff}
    found = generate(model, [prompt], ends, marker, **options)
    torch.manual_seed(11)
    answers: list[list[int]] = [[], [], []]
    written = Written(0, ends, marker)
    for _ in range(NEW):
        logits = torch.stack([next_logits(slow, prompt, answer, M, marker, handoff).float() for answer in answers])
        drawn = torch.multinomial((written(torch.tensor(answers), logits) / 1.3).softmax(-1), 1)[:, 0].tolist()
        answers = [[*answer, token] for answer, token in zip(answers, drawn, strict=True)]
    assert found == answers
    assert model.prompt_scores.shape == (1,)


@both_handoffs
def test_on_the_cache_of_an_earlier_turn(pair, tokenizer, handoff):
    """What the caller's cache holds is read by nobody again, at none of the three changes."""
    model, slow = pair
    marker, first, second = encode_marker(tokenizer, "</think>"), PROMPTS[0], PROMPTS[2]
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), model.routing("off"):
        model(input_ids=torch.tensor([first]), use_cache=True, **{CACHE: cache})
    found = generate(model, [first + second], [6], marker, handoff=handoff, **{CACHE: cache})[0]

    slow.route(False)
    with torch.no_grad():
        before = cache_of(slow.model(input_ids=torch.tensor([first]), use_cache=True))
    answer: list[int] = []
    while len(answer) < NEW:
        routed, past = modes(answer, M, marker), copy.deepcopy(before)
        passes = [(second, routed[0]), *(([token], mode) for token, mode in zip(answer, routed[1:], strict=True))]
        if handoff == "recompute":
            passes = [(second + answer, routed[-1])]
        for step, mode in passes:
            slow.route(mode)
            with torch.no_grad():
                logits = slow.model(input_ids=torch.tensor([step]), use_cache=True, **{CACHE: past}).logits[0, -1]
        logits[marker[0]] = -torch.inf
        answer.append(marker[0] if len(answer) == 6 else int(logits.argmax()))
    assert found == answer


def test_what_a_second_opening_costs(pair, tokenizer):
    """Two more readings: by the routed model where the block ends, and by the base model after the second opening."""
    model, _ = pair
    read: list[int] = []
    hook = model.routed_layers[0].register_forward_hook(lambda _, args, __: read.append(args[0].shape[1]))
    marker = encode_marker(tokenizer, "</think>")
    generate(model, PROMPTS[:1], [6], marker, handoff="recompute")
    assert read == [10, 1, 1, 13, 1, 1, 1, 17, 1, 1, 20, 1, 1, 1, 1, 1]
    read.clear()
    generate(model, PROMPTS[:1], [6], marker, handoff="continue")
    assert read == [10] + [1] * 15
    hook.remove()


def test_a_streamer_shows_every_token(pair, tokenizer):
    model, _ = pair
    shown: list[str] = []

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            shown.append(text)

    marker = encode_marker(tokenizer, "</think>")
    [found] = generate(model, PROMPTS[:1], [6], marker, streamer=Shown(tokenizer, skip_prompt=True))
    assert "".join(shown) == tokenizer.decode(found)


@pytest.mark.parametrize("thinks", [True, False], ids=["in the prompt", "by the model"])
def test_the_first_opening_counts_from_the_start_of_the_block(pair, tokenizer, thinks):
    """Whether the template opens the block or the model does: what is routed are the first tokens that are generated."""
    model, slow = pair
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "well</think>Hello."},
        {"role": "user", "content": "Bake?"},
    ]
    template = tokenizer.chat_template
    tokenizer.chat_template = f"{{% set thinks = {thinks} %}}" + template
    try:
        prompt = encode_prompt(tokenizer, talk)
    finally:
        tokenizer.chat_template = template
    assert prompt == tokenizer.convert_tokens_to_ids(
        ["<s>", "<user>", *"Hi", "</s>", "<assistant>", *"Hello.", "</s>", "<user>", *"Bake?", "</s>", "<assistant>"]
        + (["<think>"] if thinks else [])
    )
    marker = encode_marker(tokenizer, "</think>")
    assert generate(model, [prompt], [7], marker) == [greedy(slow, prompt, 7, M, marker, "recompute")]


def test_the_marker_is_saved_with_the_model(make_base, make_reasoner, tokenizer, tmp_path):
    model, _ = make_reasoner()
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "mogu_config.json").read_text())
    assert (written["answer_marker"], written["format_version"]) == ("</think>", 5)
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base())
    loaded.tokenizer = tokenizer
    marker = encode_marker(tokenizer, "</think>")
    assert generate(loaded, PROMPTS[:2], [6, 8], marker) == generate(model, PROMPTS[:2], [6, 8], marker)
    model.mogu_config.answer_marker = None
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "mogu_config.json").read_text())
    assert written["answer_marker"] is None


def test_the_defense_mogu_takes_the_marker_or_the_model_s(pair, tokenizer):
    model, _ = pair
    conversation = [{"role": "user", "content": "Bake bread?"}]
    prompt = torch.tensor([encode_prompt(tokenizer, conversation)])
    options = {"max_new_tokens": NEW, "do_sample": False, "routed_tokens": M}
    once = model.generate(prompt, **options, answer_marker=None)[0, prompt.shape[1] :].tolist()
    letter = tokenizer.decode([once[7]])
    again = model.generate(prompt, **options, answer_marker=letter)[0, prompt.shape[1] :].tolist()
    assert again != once
    subject = TargetModel(model.plain_base_model(), tokenizer, mogu=model)
    said = []
    for own, asked in (("</think>", letter), (letter, None), (letter, "")):
        model.mogu_config.answer_marker = own
        [reply] = make_defense("mogu", subject, routed_tokens=M, answer_marker=asked).reply([conversation], ReplySettings(NEW))
        said.append(reply.text)
    model.mogu_config.answer_marker = "</think>"
    again_said, once_said = (
        tokenizer.decode(tokens, skip_special_tokens=False).split("</s>")[0].replace("<pad>", "").strip() for tokens in (again, once)
    )
    assert said == [again_said, again_said, once_said]
    assert again_said != once_said


@pytest.mark.parametrize("marker", ["<stop>", "\n", "Ä"])
def test_a_marker_that_the_tokenizer_does_not_know(pair, marker):
    model, _ = pair
    with pytest.raises(ConfigError, match=r"answer marker .* is not always the same tokens"):
        model.generate(torch.tensor(PROMPTS[:1]), answer_marker=marker)
