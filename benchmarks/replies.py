"""Time replies to many prompts: plain ``generate``, one prompt at a time and eight, beside MoGU's replies.

All ways reply greedily to the same prompts with the same model and take turns. Only tokens of replies count: what a batch computes for
a reply that has ended, it computes for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.findings import Finding
from benchmarks.models import LlamaShape, make_base
from benchmarks.timing import interleaved, median_ratio, medians
from mogu.hub import load_base, load_tokenizer
from mogu.inference.padding import left_pad, padding_id
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import ReplySettings, replies

PLAIN = (1, 8)
SUBJECTS = ("rain", "bread", "the moon", "a bicycle", "chess", "the sea", "a good night's sleep", "old maps")
QUESTIONS = (
    "What is {}?",
    "Write one sentence about {}.",
    "Name three words that go with {}.",
    "Is there anything that children should know about {}? Answer with yes or no.",
    "Explain {} to somebody who has never heard of it, in a few sentences and without a list.",
    "Write a short poem about {}.",
    "How do you spell the first word of this: {}?",
    "My sister gave me a book about {} last week. I have read the first chapter and would like to talk about it. What could I ask her?",
)


@dataclass(frozen=True)
class RepliesPlan:
    """How much is measured.

    Args:
        prompts: number of prompts, at most 64.
        new_tokens: the longest reply, in tokens.
        batch_sizes: of MoGU's replies.
        rounds: number of timings of each way.
    """

    prompts: int
    new_tokens: int
    batch_sizes: Sequence[int]
    rounds: int


FULL_PLAN = RepliesPlan(prompts=32, new_tokens=64, batch_sizes=(16, 32), rounds=3)
QUICK_PLAN = RepliesPlan(prompts=6, new_tokens=8, batch_sizes=(3, 6), rounds=2)


def measure_replies(
    plan: RepliesPlan, source: str | None, shape: LlamaShape, device: torch.device, dtype: torch.dtype
) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and every timing behind them.

    Args:
        plan: how much is measured.
        source: folder or hub id of a chat model; ``None`` for a random one.
        shape: of the random model.
        device: where the model is.
        dtype: its type.
    """
    if source is None:
        model, tokenizer = random_chat_model(shape, device, dtype)
    else:
        model, tokenizer = load_base(source, dtype=dtype).to(device).eval(), load_tokenizer(source)
    prompts, settings = everyday_prompts()[: plan.prompts], ReplySettings(plan.new_tokens)
    replying: dict[str, Callable[[Sequence[str]], list[int]]] = {
        f"generate, {size} at a time": partial(plain_reply_lengths, model, tokenizer, settings, size) for size in PLAIN
    } | {f"replies, {size} at a time": partial(reply_lengths, model, tokenizer, settings, size) for size in plan.batch_sizes}
    lengths: dict[str, list[int]] = {}

    def timed(name: str) -> None:
        lengths[name] = replying[name](prompts)

    for reply in replying.values():  # warm up
        reply(prompts[:2])
    seconds = interleaved({name: partial(timed, name) for name in replying}, plan.rounds, model.device)
    middle, findings = medians(seconds), []
    for name in replying:
        ratios = ", ".join(f"{1 / median_ratio(seconds, name, f'generate, {size} at a time'):.2f} × generate at {size}" for size in PLAIN)
        findings.append(
            Finding(
                "replies",
                f"{name}; {len(prompts)} prompts, at most {plan.new_tokens} tokens each",
                sum(lengths[name]) / middle[name],
                "tokens/s",
                note=f"{sum(lengths[name])} tokens in {middle[name]:.1f} s; {ratios}",
            )
        )
    return findings, {"model": model.name_or_path, "lengths": lengths, "seconds": seconds}


def random_chat_model(shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a random Llama whose replies end at every fourth token of its vocabulary, and a tokenizer of bytes."""
    letters = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    model = make_base(shape, device, dtype)
    model.generation_config.eos_token_id = list(range(0, shape.vocabulary, 4))
    return model, tokenizer


def everyday_prompts() -> list[str]:
    """Return 64 harmless questions, whose lengths and whose answers' lengths differ."""
    return [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]


def reply_lengths(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ReplySettings, batch_size: int, prompts: Sequence[str]
) -> list[int]:
    """Let MoGU reply, and return how many tokens each reply has."""
    return [reply.tokens for reply in replies(model, tokenizer, prompts, settings, batch_size=batch_size)]


def plain_reply_lengths(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ReplySettings, batch_size: int, prompts: Sequence[str]
) -> list[int]:
    """Let ``generate`` reply to the prompts as they come, and return how many tokens each reply has."""
    pad, ends, lengths = padding_id(tokenizer, model), _ends(model, tokenizer), []
    for start in range(0, len(prompts), batch_size):
        batch = left_pad([encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + batch_size]], pad, model.device)
        output: Any = model.generate(**batch, **settings.generate_options(), pad_token_id=pad)  # type: ignore[operator]
        for row in output[:, batch["input_ids"].shape[1] :].tolist():
            lengths.append(next((place for place, token in enumerate(row) if token in ends), len(row)))
    return lengths


def _ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return set(ends if isinstance(ends, list) else [ends])
