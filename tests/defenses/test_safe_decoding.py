"""SafeDecoding against its definition, computed token by token in float64 without a cache."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from mogu.defenses import TargetModel, make_defense
from mogu.defenses.safe_decoding import ExpertSteering, combined_log_probabilities
from mogu.inference.padding import left_pad
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings

pytestmark = pytest.mark.core

TEXTS = ["ab", "tell me more, please", "x", "What? No! 10"]


def by_definition(base: list[float], expert: list[float], alpha: float, top_k: int | None, common: int) -> dict[int, float]:
    """Compute ``P`` over the sample space from probabilities, in plain Python."""

    def most_likely(probabilities: list[float], k: int) -> set[int]:
        return set(sorted(range(len(probabilities)), key=lambda token: -probabilities[token])[:k])

    space: set[int] = set()
    for k in range(1, len(base) + 1):
        space = most_likely(base, k) & most_likely(expert, k)
        if len(space) >= common or (top_k is not None and k >= top_k and space):
            break
    raw = {token: max(base[token] + alpha * (expert[token] - base[token]), 1e-8) for token in space}
    return {token: value / sum(raw.values()) for token, value in raw.items()}


@torch.no_grad()
def probabilities(model: Any, ids: list[int]) -> list[float]:
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1).tolist()


def slow_reply(target: TargetModel, prompt: list[int], new_tokens: int, first_m: int, **options: Any) -> list[int]:
    # The template begins the next turn with <user>, and ends none: that ends a reply as well.
    expert, ends = target.with_adapter("expert"), {target.tokenizer.eos_token_id, target.tokenizer.convert_tokens_to_ids("<user>")}
    written: list[int] = []
    for step in range(new_tokens):
        chances = dict(enumerate(probabilities(target.base, prompt + written)))
        if step < first_m:
            chances = by_definition(list(chances.values()), probabilities(expert, prompt + written), **options)
        written.append(max(chances, key=lambda token: chances[token]))
    return written[: next((place for place, token in enumerate(written) if token in ends), len(written))]


OPTIONS = [
    {"first_m": 2, "alpha": 3.0, "top_k": 10, "num_common_tokens": 5},
    {"first_m": 6, "alpha": 1.0, "top_k": None, "num_common_tokens": 8},
    {"first_m": 3, "alpha": 20.0, "top_k": 1, "num_common_tokens": 3},
    {"first_m": 0, "alpha": 3.0, "top_k": 10, "num_common_tokens": 5},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_replies_follow_the_definition(options: dict[str, Any], random_target: TargetModel) -> None:
    ready = make_defense("safe_decoding", random_target, **options)
    replies = ready.reply([as_conversation(text) for text in TEXTS], ReplySettings(8))
    slow = {"first_m": options["first_m"], "alpha": options["alpha"], "top_k": options["top_k"], "common": options["num_common_tokens"]}
    expected = []
    for text in TEXTS:
        written = slow_reply(random_target, random_target.encode(as_conversation(text)), 8, **slow)
        expected.append(random_target.tokenizer.decode(written, skip_special_tokens=True).strip())
    assert [reply.text for reply in replies] == expected


@torch.no_grad()
def test_the_expert_handles_padding_in_every_family(every_family: str, make_base: Callable[..., PreTrainedModel]) -> None:
    """With α = 1 over all tokens the expert alone writes the first tokens, from its own cache and positions."""
    dtype = torch.float32 if every_family == "gemma2" else torch.float64  # in float64 padding turns its attention into NaN
    model, expert = make_base(every_family, dtype), make_base(every_family, dtype)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]]
    torch.manual_seed(1)
    for parameter in expert.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    greedy = ReplySettings(4).generate_options() | {"pad_token_id": 0}
    steering = ExpertSteering(expert, [7, 3], 3, 1.0, None, 64)
    output = model.generate(**left_pad(prompts, 0, torch.device("cpu")), **greedy, logits_processor=LogitsProcessorList([steering]))
    for prompt, row in zip(prompts, output.tolist(), strict=True):
        written = list(prompt)
        for step in range(4):
            writer = expert if step < 3 else model
            written.append(int(writer(torch.tensor([written]), use_cache=False).logits[0, -1].argmax()))
        assert row[-4:] == written[-4:]


def test_steering_the_first_tokens_changes_the_reply(random_target: TargetModel) -> None:
    """Steering changes the reply, so the comparison with the definition above can fail."""
    conversations = [as_conversation(text) for text in TEXTS]
    steered, plain = (make_defense(name, random_target).reply(conversations, ReplySettings(8)) for name in ("safe_decoding", "none"))
    assert all(steered_reply.text != plain_reply.text for steered_reply, plain_reply in zip(steered, plain, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_defined_distribution(temperature: float, random_target: TargetModel) -> None:
    draws = 2000
    prompts = [random_target.encode(as_conversation(text)) for text in TEXTS[:2]]
    expert = random_target.with_adapter("expert").get_base_model()
    repeated = [prompt for prompt in prompts for _ in range(draws)]
    steering = ExpertSteering(expert, [len(prompt) for prompt in repeated], 2, 3.0, 10, 5)
    torch.manual_seed(0)
    output = random_target.base.generate(
        **left_pad(repeated, 0, torch.device("cpu")),
        **ReplySettings(1, temperature=temperature).generate_options(),
        pad_token_id=0,
        logits_processor=LogitsProcessorList([steering]),
    )
    for index, prompt in enumerate(prompts):
        chances = by_definition(probabilities(random_target.base, prompt), probabilities(expert, prompt), alpha=3.0, top_k=10, common=5)
        sharper = {token: chance ** (1 / temperature) for token, chance in chances.items()}
        counts = Counter(output[index * draws : (index + 1) * draws, -1].tolist())
        assert set(counts) <= set(chances)
        for token, weight in sharper.items():
            share = weight / sum(sharper.values())
            assert counts[token] / draws == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / draws) + 1e-4)
        assert max(sharper.values()) < 0.97 * sum(sharper.values()) or temperature < 1  # more than one token can be drawn


def logits(*shares: float) -> Tensor:
    return torch.tensor([shares], dtype=torch.float64).log()


BASE = (0.50, 0.20, 0.15, 0.10, 0.05)
EXPERT = (0.05, 0.30, 0.10, 0.15, 0.40)


@pytest.mark.parametrize(
    ("alpha", "top_k", "common", "expected"),
    [
        # Ranks 1 2 3 4 5 and 5 2 4 3 1: token 1 is common from k = 2 on, tokens 2 and 3 from 4, the others from 5.
        (3.0, None, 1, {1: 1.0}),
        (1.0, None, 2, {1: 0.30 / 0.55, 2: 0.10 / 0.55, 3: 0.15 / 0.55}),
        # 0.2 + 3·0.1 = 0.5; 0.15 - 3·0.05 = 0, lifted to 1e-8; 0.1 + 3·0.05 = 0.25
        (3.0, None, 3, {1: 0.5 / 0.75, 2: 1e-8 / 0.75, 3: 0.25 / 0.75}),
        # three common tokens are required, but the two most likely tokens of each share only one
        (3.0, 2, 3, {1: 1.0}),
        # the most likely tokens differ: k grows until one is shared
        (3.0, 1, 3, {1: 1.0}),
        (0.0, None, 5, dict(enumerate(BASE))),
        (1.0, None, 5, dict(enumerate(EXPERT))),
        # more common tokens are required than there are tokens
        (1.0, None, 9, dict(enumerate(EXPERT))),
    ],
)
def test_combinations_computed_by_hand(alpha: float, top_k: int | None, common: int, expected: dict[int, float]) -> None:
    combined = combined_log_probabilities(logits(*BASE), logits(*EXPERT), alpha, top_k, common).exp()[0]
    assert {token: value for token, value in enumerate(combined.tolist()) if value > 0} == pytest.approx(expected, rel=1e-6)


def test_each_row_of_a_batch_has_its_own_sample_space() -> None:
    base, expert = torch.cat([logits(*BASE), logits(*EXPERT)]), torch.cat([logits(*EXPERT), logits(*EXPERT)])
    combined = combined_log_probabilities(base, expert, 1.0, None, 2).exp()
    assert (combined > 0).sum(-1).tolist() == [3, 2]
    assert combined[1].tolist() == pytest.approx([0, 0.3 / 0.7, 0, 0, 0.4 / 0.7])
