"""Attacks on open weights: use one responder alone, or fine-tune for ten steps on harmless pairs.

What the shared weights are stays as it is: fine-tuning is done to a copy. Knows models and how they are trained; knows nothing of requests,
which are asked plainly.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mogu.attacks.attempt import Attempts, Context, ask, attack
from mogu.attacks.surface import nats
from mogu.data.starter import candidates
from mogu.defenses.registry import DefendedReply, Defense, make_defense
from mogu.defenses.target_model import TargetModel
from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt
from mogu.hub.adapters import has_adapter, merged
from mogu.hub.quantization import dequantize, quantization_of
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, replies, reply_batch
from mogu.modeling.model import MoguModel

STEPS = 10
BATCH = 4
"""Pairs of a step; every pair is seen once."""
ANSWER_TOKENS = 24
LEARNING_RATE = 1e-4

Answer = Callable[[Sequence[Conversation], ReplySettings], list[DefendedReply]]
Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


@attack("glad_alone", label="glad responder alone", family="weights", access="weights", aware=True, queries=1)
def glad_alone(behavior: EvalPrompt, context: Context) -> Attempts:
    """Ask the model with the glad responder switched on for good; see :func:`tampered`."""
    yield ask(behavior, behavior.instruction)


@attack("ten_steps", label="ten steps of fine-tuning", family="weights", access="weights", aware=True, queries=1)
def ten_steps(behavior: EvalPrompt, context: Context) -> Attempts:
    """Ask a model that was fine-tuned a little on harmless pairs (Qi et al. 2023, arXiv:2310.03693); see :func:`tampered`."""
    yield ask(behavior, behavior.instruction)


def applies(name: str, defense: Defense) -> bool:
    """Whether an attack on weights has weights to change: MoGU alone has a glad responder, and not with a gate."""
    return name != "glad_alone" or (defense.name == "mogu" and "glad" in defense.target.require_mogu().mogu_config.responders)


@contextmanager
def tampered(name: str, defense: Defense) -> Iterator[Answer]:
    """What answers in the place of a defense once its weights were tampered with.

    ``glad_alone`` has the glad responder answer alone, from the first token to the last. ``ten_steps`` fine-tunes a copy of all weights
    by ten steps of AdamW on the base model's own answers to harmless instructions of the starter set: MoGU's as it is served, with the
    first tokens of an answer routed; the merged weights of ``sft``; and of any other defense the base model, since whoever has the
    weights leaves out what stands around them.

    Args:
        name: of the attack.
        defense: what is attacked; its own weights stay as they are.

    Raises:
        ConfigError: there is no such attack on weights, or the defense has none for it.
    """
    if name not in ("glad_alone", "ten_steps") or not applies(name, defense):
        raise ConfigError(
            f"The defense {defense.name} cannot be tampered with by {name}",
            expected="ten_steps, or glad_alone of the defense mogu",
            action="leave out this attack or this defense",
        )
    yield _glad_alone(defense) if name == "glad_alone" else _ten_steps(defense)


def _glad_alone(defense: Defense) -> Answer:
    target, model = defense.target, defense.target.require_mogu()

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(conversation) for conversation in conversations]
        with model.routing("glad"):
            return [DefendedReply.of(reply) for reply in reply_batch(model, target.tokenizer, prompts, settings)]

    return Defense(defense.name, {}, target, answer).reply


def _ten_steps(defense: Defense) -> Answer:
    target = defense.target
    pairs = harmless_pairs(target)
    if defense.name == "mogu":
        mogu: MoguModel = _trainable(target.require_mogu())
        config = mogu.mogu_config
        options = {
            name: getattr(config, name) if defense.options[name] is None else defense.options[name] for name in ("routed_tokens", "dial")
        }
        routed = ANSWER_TOKENS if options["routed_tokens"] == "all" else options["routed_tokens"]
        fine_tune(mogu, pairs, lambda prompt, answer: _routed_loss(mogu, prompt, answer, routed, options["dial"]))
        changed = TargetModel(mogu.plain_base_model(), target.tokenizer, mogu=mogu, system_prompt=target.system_prompt)
        return make_defense("mogu", changed, **defense.options).reply
    model = _trainable(target.base) if defense.name != "sft" else merged(_trainable(target.with_adapter("sft")))
    fine_tune(model, pairs, lambda prompt, answer: _nats(model, prompt, answer).mean())
    return make_defense("none", TargetModel(model, target.tokenizer, system_prompt=target.system_prompt)).reply


_PAIRS: WeakKeyDictionary[TargetModel, list[Pair]] = WeakKeyDictionary()


def harmless_pairs(target: TargetModel) -> list[Pair]:
    """Harmless training instructions of the starter set, and the base model's own greedy answers to them; none is empty.

    Every defense of one target is tampered with by the same pairs, so that they are made once.
    """
    if target not in _PAIRS:
        _PAIRS[target] = _answered(target)
    return _PAIRS[target]


def _answered(target: TargetModel) -> list[Pair]:
    instructions = [instruction.text for instruction in candidates("train")["benign"]][: STEPS * BATCH]
    prompts = [target.with_system_prompt([{"role": "user", "content": text}]) for text in instructions]
    answers = replies(target.base, target.tokenizer, prompts, ReplySettings(ANSWER_TOKENS))
    encoded = [target.tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in answers]
    return [(target.encode(prompt), list(ids)) for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > 0]


def fine_tune(model: Any, pairs: Sequence[Pair], loss: Callable[[list[int], list[int]], Tensor]) -> None:
    """Ten steps of AdamW on all weights of a model that is nobody else's; a step is the mean of its pairs' losses.

    Args:
        model: whose weights are changed.
        pairs: what it learns, in an order of its own.
        loss: of one pair, with its graph.
    """
    floating = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    for parameter in floating:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(floating, lr=LEARNING_RATE, weight_decay=0.0)
    order = list(pairs)
    random.Random(0).shuffle(order)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        for prompt, answer in batch:  # one by one: no padding, and little memory
            (loss(prompt, answer) / len(batch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.requires_grad_(False)


def _trainable(model: Any) -> Any:
    """A copy of a model with weights of its own; in half precision, steps as small as these would be rounded away.

    Whoever has weights in 4 or 8 bits fine-tunes what they stand for.
    """
    if isinstance(model, MoguModel) and quantization_of(model) is not None:
        base = copy.deepcopy(model.plain_base_model())
        dequantize(base)
        copied = MoguModel.from_base(base, model.mogu_config)
        copied.load_checkpoint(model.checkpoint())
        copied.use_tokenizer(model.tokenizer)
        copied.eval()
    else:
        copied = copy.deepcopy(model)
        if not has_adapter(copied):  # merging it does the same
            dequantize(copied)
    return copied.float() if next(model.parameters()).dtype in (torch.float16, torch.bfloat16) else copied


def _routed_loss(mogu: MoguModel, prompt: list[int], answer: list[int], routed: int, dial: float) -> Tensor:
    """The mean cross-entropy of an answer whose first ``routed`` tokens are routed, and whose others come from the base model."""
    with mogu.routing("on", dial=dial):
        losses = [_nats(mogu.base_model, prompt, answer[:routed])] if routed else []
    if len(answer) > routed:
        with mogu.routing("off"):
            losses.append(_nats(mogu.base_model, prompt, answer)[routed:])
    return torch.cat(losses).mean()


def _nats(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """Cross-entropy of each token of an answer, ``[tokens]``."""
    ids = torch.tensor([prompt + answer], device=model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    return nats(logits.unsqueeze(0), ids[0, len(prompt) :])[0]
