"""Replies to many prompts, greedy or sampled, in batches of like length from which rows that have ended leave.

Knows models and tokenizers; knows nothing of what the prompts are for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria
from transformers.generation.configuration_utils import GenerationMode

from mogu.inference.batches import in_batches, rows_in_memory
from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad, padding_id
from mogu.inference.prompts import Prompt, encode_prompts, turn_end
from mogu.inference.thoughts import ALL_MARKS
from mogu.processes import share_of, whole_of
from mogu.progress import progress_bars

BATCH_SIZE = 64
"""Replies at a time, at most, where nobody says otherwise."""


@dataclass(frozen=True)
class ReplySettings:
    """How replies are generated.

    Args:
        max_new_tokens: tokens of each reply, at most.
        temperature: 0 is greedy.
        top_p: nucleus of sampling.
        top_k: candidates of sampling; ``None`` is all.
        stop: strings at which a reply ends; they are not part of it.
        seed: of sampling; ``None`` draws on whatever state PyTorch is in.
        min_new_tokens: tokens of each reply, at least: for timings that no reply shortens.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    min_new_tokens: int = 0

    def generate_options(self) -> dict[str, Any]:
        """As keyword arguments of Hugging Face's ``generate``."""
        if self.temperature == 0:
            # None, so that a model's own sampling settings raise no warning about greedy decoding.
            sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        else:
            sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or 0}
        shortest = {"min_new_tokens": self.min_new_tokens} if self.min_new_tokens else {}
        return {"max_new_tokens": self.max_new_tokens, **shortest, **sampling}


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Args:
        text: the reply without outer white space and special tokens, but with the marks of a reasoning model's thoughts.
        tokens: how many tokens it has, its end not counted.
        finished: whether the model or a stop string ended it; otherwise the token limit did.
    """

    text: str
    tokens: int
    finished: bool


@torch.no_grad()
def reply_tokens(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], settings: ReplySettings, **options: Any
) -> list[list[int]]:
    """What a model says to the prompts of one batch, in their order, as token ids up to the token that ends a reply and with it.

    Args:
        model: a base model or a routed one, in evaluation mode.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        settings: how replies are generated.
        options: more keyword arguments for the model's ``generate``.
    """
    end = end_tokens(model, tokenizer)
    options |= ending_options(model, tokenizer) | settings.generate_options()
    batch = left_pad(list(prompts), options["pad_token_id"], model.device)
    if settings.stop:
        given = options.get("stopping_criteria") or []
        options["stopping_criteria"] = StoppingCriteriaList([*given, StopStringCriteria(tokenizer, list(settings.stop))])
    if len(prompts) > 1 and _decodes_rows(model, options):
        options["custom_generate"] = LeavingRows(streamer=options.get("streamer"))
    with _seeded(settings.seed, model.device):
        output = model.generate(**batch, **options)
    rows: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: next((place + 1 for place, token in enumerate(row) if token in end), None)] for row in rows]


def reply_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], settings: ReplySettings, **options: Any
) -> list[Reply]:
    """Replies to the prompts of one batch, in their order; arguments as of :func:`reply_tokens`."""
    end = end_tokens(model, tokenizer)
    rows = reply_tokens(model, tokenizer, prompts, settings, **options)
    return [_reply(tokenizer, tokens, end, settings.stop) for tokens in rows]


def replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: ReplySettings,
    *,
    batch_size: int = BATCH_SIZE,
    advance: Callable[[int], None] | None = None,
) -> list[Reply]:
    """Let a model reply to prompts; replies come in the prompts' order, and greedy ones do not depend on the batch size.

    Sampled replies with a seed are the same whenever the same prompts share a batch.

    Args:
        model: a base model or a routed one, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        prompts: instructions or conversations, with tools or without.
        settings: how replies are generated.
        batch_size: replies at a time, at most; fewer where memory is short.
        advance: is told how many replies each batch brought.

    Raises:
        ChatTemplateError: the tokenizer has no chat template, or the template fails.
    """
    encoded = encode_prompts(tokenizer, prompts)
    return in_batches(
        lambda batch: reply_batch(model, tokenizer, [encoded[index] for index in batch], settings),
        [len(prompt) for prompt in encoded],
        most=lambda longest: min(batch_size, rows_in_memory(model, longest + settings.max_new_tokens)),
        advance=advance,
    )


def replies_with_progress(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: ReplySettings,
    *,
    batch_size: int = BATCH_SIZE,
    title: str,
) -> list[Reply]:
    """What :func:`replies` returns, under a progress bar with this title on the error stream; several processes share the prompts."""
    own = share_of(prompts)
    with progress_bars() as progress:
        task = progress.add_task(title, total=len(own), note="replies")
        made = replies(model, tokenizer, own, settings, batch_size=batch_size, advance=lambda count: progress.advance(task, count))
    return whole_of(made)


def decode_reply(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """The text of generated tokens without special tokens, but with the marks of thoughts, which many tokenizers count among them.

    Without those nobody could tell thoughts from what is said aloud.
    """
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    marks = {index for token, index in special.items() if str(token).lower() in ALL_MARKS}
    if not marks:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))
    dropped = set(special.values()) - marks
    return str(tokenizer.decode([token for token in tokens if token not in dropped], skip_special_tokens=False))


def _decodes_rows(model: Any, options: dict[str, Any]) -> bool:
    """Whether each row is decoded by itself, one token a pass; a model's own settings may ask for beams, or for a draft."""
    generation = copy.deepcopy(model.generation_config) or GenerationConfig()  # type: ignore[no-untyped-call]
    generation.update(**options)
    return generation.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)


def _reply(tokenizer: PreTrainedTokenizerBase, tokens: list[int], end: frozenset[int], stop: tuple[str, ...]) -> Reply:
    length = next((index for index, token in enumerate(tokens) if token in end), None)
    text = decode_reply(tokenizer, tokens[:length])
    stops = [position for string in stop if (position := text.find(string)) >= 0]
    if stops:
        text = text[: min(stops)]
    return Reply(text.strip(), len(tokens) if length is None else length, length is not None or bool(stops))


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Sampling from a seed of its own, which leaves PyTorch's random state as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a reply: the model's own, of which its generation settings may name several, else the tokenizer's.

    And the one that its chat template ends an answer with, which those settings do not always name.
    """
    settings = model.generation_config
    named = (settings.eos_token_id if settings is not None else None) or tokenizer.eos_token_id
    end = turn_end(tokenizer)
    return frozenset([*(named if isinstance(named, list) else [named]), end]) - {None}


def ending_options(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Options of ``generate`` for replies that end where :func:`end_tokens` says, and for what fills up rows that have ended."""
    end = sorted(end_tokens(model, tokenizer))
    return {"pad_token_id": padding_id(tokenizer, model), **({"eos_token_id": end} if end else {})}
