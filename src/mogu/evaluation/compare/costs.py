"""What each row of a comparison costs: seconds of a reply, passes, tokens read, bytes held, all measured in one run.

Knows defenses and the clock; knows nothing of what replies say.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from typing import Any

import torch

from mogu.defenses import Defense, make_defense
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.json_files import fingerprint as fingerprint_of
from mogu.files.json_files import read_kept, write_sealed
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings

logger = getLogger(__name__)

COSTS_FILE = "costs.json"
FORMAT = 2


@dataclass(frozen=True)
class SystemCost:
    """What one row of a comparison costs.

    Args:
        defense: name of the defense, or of the hardened model.
        seconds: for each prompt, one number a round.
        passes: forward passes for each prompt, all models together.
        tokens: tokens that went through them.
        weights_bytes: bytes of all distinct parameters that the defense holds in memory, the base model's among them.
        peak_bytes: the most memory that was in use on the GPU while it replied; ``None`` on the CPU, where PyTorch does not count.
        added_parameters: that a hardened model adds to the base model; ``None`` for a defense on the base model.
    """

    defense: str
    seconds: list[list[float]]
    passes: list[float]
    tokens: list[float]
    weights_bytes: int
    peak_bytes: int | None
    added_parameters: int | None = None


def measured_costs(pool: ModelPool, prompts: Sequence[EvalPrompt]) -> list[SystemCost]:
    """Measure what every row costs on the first benign prompts, or read back what was measured before.

    Replies have a fixed length, so that a defense that says less does not look faster; defenses take turns prompt by prompt, so that
    whatever else the machine does affects all of them alike. One prompt at a time, as a user waits for a reply.
    """
    comparison, names = pool.comparison, pool.lineup.names()
    benign = [prompt for prompt in prompts if prompt.category == "benign"][: comparison.cost_prompts]
    conversations = [prompt.conversation for prompt in benign or prompts[: comparison.cost_prompts]]
    file = comparison.out / COSTS_FILE
    trained = [pool.fingerprint(name, 0) for name in names]
    fingerprint = fingerprint_of(FORMAT, names, trained, conversations, comparison.max_new_tokens, comparison.cost_rounds, pool.device)
    kept = read_kept(file)
    if kept is None or kept["fingerprint"] != fingerprint:
        rounds = comparison.cost_rounds
        logger.info("Time and memory: %d defenses take turns on %d prompts, %d rounds", len(names), len(conversations), rounds)
        costs = _measure(pool, conversations)
        kept = {"fingerprint": fingerprint, "costs": [asdict(cost) for cost in costs]}
        write_sealed(file, kept)
    return [SystemCost(**cost) for cost in kept["costs"]]


def _measure(pool: ModelPool, conversations: Sequence[Conversation]) -> list[SystemCost]:
    comparison, rounds = pool.comparison, pool.comparison.cost_rounds
    defenses = {name: make_defense(system.defense.name, pool.target(name, 0)) for name, system in pool.lineup.systems.items()}
    settings = ReplySettings(comparison.max_new_tokens, seed=0, min_new_tokens=comparison.max_new_tokens)
    seconds = {name: [[0.0] * rounds for _ in conversations] for name in defenses}
    passes: dict[str, list[float]] = {name: [0.0] * len(conversations) for name in defenses}
    tokens: dict[str, list[float]] = {name: [0.0] * len(conversations) for name in defenses}
    # The first reply of each defense includes what is set up once, and is not timed.
    peaks = {name: _peak(defense, conversations[0], settings, pool.device) for name, defense in defenses.items()}
    names = list(defenses)
    for turn, (round_number, index) in enumerate(itertools.product(range(rounds), range(len(conversations)))):
        first = turn % len(names)  # so that no defense always follows the same one
        for name in names[first:] + names[:first]:
            _wait(pool.device)
            started = time.perf_counter()
            (reply,) = defenses[name].reply([conversations[index]], settings)
            _wait(pool.device)
            seconds[name][index][round_number] = time.perf_counter() - started
            passes[name][index], tokens[name][index] = reply.cost.passes, reply.cost.tokens
    return [
        SystemCost(
            name,
            seconds[name],
            passes[name],
            tokens[name],
            distinct_bytes(defense.target.models()),
            peaks[name] if pool.device == "cuda" else None,
            defense.target.mogu.added_parameters() if defense.target.mogu is not None else None,
        )
        for name, defense in defenses.items()
    ]


def distinct_bytes(models: Iterable[Any]) -> int:
    """Count the bytes of the parameters of several models; what they share counts once."""
    held = {
        tensor.data_ptr(): tensor.numel() * tensor.itemsize
        for model in models
        for tensor in itertools.chain(model.parameters(), model.buffers())
    }
    return sum(held.values())


def _peak(defense: Defense, conversation: Conversation, settings: ReplySettings, device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    defense.reply([conversation], settings)
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
