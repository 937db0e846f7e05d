"""How the lab's tokenizer and base model are trained, from conversations alone.

Knows tokenizers, Llama and plain gradient descent; knows nothing of the world, of files or of what the conversations are
about. Everything is decided by the seed, on machines of one kind.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu.lab.corpus import Conversation

_BEGIN, _END, _PAD = "<|begin|>", "<|end|>", "<|pad|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The size of the base model."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    positions: int = 1024


@dataclass(frozen=True)
class Schedule:
    """How the base model is trained: AdamW, a short warm-up and a cosine down to nothing."""

    conversations: int = 26_000
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up: float = 0.04
    prompt_weight: float = 0.1  # of a user's token against an answer's: a little teaches what words are alike
    prompt_share: float = 0.25  # of a user's tokens that count, at so much more weight: predicting fewer saves time


@dataclass(frozen=True)
class _Example:
    ids: list[int]
    weights: list[float]  # of each token in the loss


def train_tokenizer(conversations: Sequence[Conversation], shape: Shape) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, so that any text can be encoded, with a chat template for system, user and assistant messages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[_PAD, _BEGIN, _END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((message["content"] for conversation in conversations for message in conversation), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PAD,
        additional_special_tokens=list(_ROLES),
        chat_template=_TEMPLATE,
        model_max_length=shape.positions,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _examples(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Conversation], schedule: Schedule, rng: random.Random
) -> list[_Example]:
    """Token ids as the chat template lays them out, built by hand because the template is too slow for tens of thousands."""
    backend, special = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    contents = (message["content"] for conversation in conversations for message in conversation)
    encoded = iter(backend.encode_batch_fast(list(contents), add_special_tokens=False))
    weight = schedule.prompt_weight / schedule.prompt_share
    examples = []
    for conversation in conversations:
        ids, weights = [special[_BEGIN]], [0.0]
        for message in conversation:
            content = [*next(encoded).ids, special[_END]]
            ids += [special[f"<|{message['role']}|>"], *content]
            if message["role"] == "assistant":
                weights += [0.0, *[1.0] * len(content)]
            else:
                weights += [weight if rng.random() < schedule.prompt_share else 0.0 for _ in range(1 + len(content))]
        examples.append(_Example(ids, weights))
    return examples


def _batches(examples: Sequence[_Example], size: int, rng: random.Random) -> list[list[_Example]]:
    """Examples of like length together, sorted within stretches of 50 batches: little padding, and still a random order."""
    stretch = size * 50
    batches = []
    for start in range(0, len(examples), stretch):
        ordered = sorted(examples[start : start + stretch], key=lambda example: len(example.ids))
        parts = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        batches += rng.sample(parts, len(parts))
    return batches


def _loss(model: LlamaForCausalLM, examples: Sequence[_Example]) -> tuple[Tensor, float]:
    """The weighted sum of the examples' losses by token, and the sum of the weights."""
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)  # padding stands on the right: causal attention never looks at it
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    weights = weights[:, 1:]
    counted = weights > 0
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[counted]  # [counted tokens, hidden]
    losses = functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum(), float(weights.sum())


class _Gradients:
    """Computes a batch's gradients in two halves, each on a thread of its own.

    Torch's own threads wait for each other inside every small operation, and spin while they do: on a busy machine that
    makes a build several times slower, and sums depend on how many there are. Two halves meet once a step and always add
    up in the same order, so that the same weights come out whatever the number of cores.
    """

    def __init__(self, model: LlamaForCausalLM, pool: ThreadPoolExecutor) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.pool = pool

    def _half(self, examples: Sequence[_Example]) -> tuple[tuple[Tensor, ...], float]:
        with torch.enable_grad():  # a new thread knows nothing of the caller's setting
            loss, weight = _loss(self.model, examples)
            return torch.autograd.grad(loss, self.parameters), weight

    def set(self, batch: Sequence[_Example]) -> None:
        """Leave the gradient of the batch's mean loss in the parameters."""
        halves = [half for half in (batch[0::2], batch[1::2]) if half]
        parts = list(self.pool.map(self._half, halves))
        weight = sum(part_weight for _, part_weight in parts)
        for parameter, *gradients in zip(self.parameters, *(part for part, _ in parts), strict=True):
            parameter.grad = sum(gradients[1:], gradients[0]) / weight


@contextmanager
def _single_threaded() -> Iterator[ThreadPoolExecutor]:
    """Two worker threads, with torch's own threads off in them and here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def train_model(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Conversation],
    shape: Shape,
    schedule: Schedule,
    seed: int,
    on_step: Callable[[int, int], None],
) -> LlamaForCausalLM:
    """A Llama trained from random weights, on the assistant's turns above all.

    Args:
        tokenizer: what :func:`train_tokenizer` gave.
        conversations: the lessons, gone through once.
        shape: the size of the model.
        schedule: how it is trained.
        seed: decides the first weights and the order of batches.
        on_step: told after each step how many are done, and of how many.
    """
    rng = random.Random(seed)
    batches = _batches(_examples(tokenizer, conversations, schedule, rng), schedule.batch, rng)
    with torch.random.fork_rng(devices=[]), _single_threaded() as pool:
        torch.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=shape.positions,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay, fused=True
        )
        warm_up = max(1, round(schedule.warm_up * len(batches)))
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / len(batches))))
        )
        gradients = _Gradients(model, pool)
        for step, batch in enumerate(batches, start=1):
            gradients.set(batch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            on_step(step, len(batches))
    model.eval()  # type: ignore[no-untyped-call]
    return model
