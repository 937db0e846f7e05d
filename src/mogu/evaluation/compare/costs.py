"""What each defense costs: seconds of a reply, passes, tokens read, bytes held; all measured in one run, taking turns.

Knows defenses and the clock; knows nothing of what replies say.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mogu.defenses import Defense, make_defense
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.model_pool import Models, Tell
from mogu.evaluation.prompts import Asked
from mogu.files.json_files import fingerprint, read_json, write_json
from mogu.inference.replies import ReplySettings

COSTS_FILE = "costs.json"
FORMAT = 2


@dataclass(frozen=True)
class DefenseCost:
    """What one defense takes.

    Args:
        defense: its name.
        seconds: of each prompt, one number a round.
        passes: forward passes for each prompt, all models together.
        tokens: tokens that went through them.
        weights_bytes: bytes of all distinct parameters that the defense holds in memory, the base model's among them.
        peak_bytes: the most memory that was in use on the GPU while it replied; ``None`` on the CPU, where PyTorch does not count.
        added_parameters: that a MoGU model adds to the base model; ``None`` of other defenses.
    """

    defense: str
    seconds: list[list[float]]
    passes: list[float]
    tokens: list[float]
    weights_bytes: int
    peak_bytes: int | None
    added_parameters: int | None = None


def measured_costs(comparison: Comparison, models: Models, asked: Sequence[Asked], *, tell: Tell) -> list[DefenseCost]:
    """The cost of every defense on the first benign prompts, read back where it was measured before.

    Replies have a fixed length, so that a defense that talks less does not look faster; defenses take turns prompt by prompt, so that what
    else the machine does falls on all of them alike. One prompt at a time: what a user waits for.
    """
    chosen = [one for one in asked if one.category == "benign"][: comparison.cost_prompts] or list(asked[: comparison.cost_prompts])
    names = comparison.named()
    file = comparison.out / COSTS_FILE
    prompts = [one.conversation for one in chosen]
    trained = [models.fingerprint(name, 0) for name in names]
    made_with = fingerprint(FORMAT, names, trained, prompts, comparison.max_new_tokens, comparison.cost_rounds, models.device)
    kept = read_json(file)
    if kept is None or kept["fingerprint"] != made_with:
        tell(f"Time and memory: {len(names)} defenses take turns on {len(prompts)} prompts, {comparison.cost_rounds} rounds")
        costs = _measure(comparison, models, [one.conversation for one in chosen])
        kept = {"fingerprint": made_with, "costs": [asdict(cost) for cost in costs]}
        write_json(file, kept)
    return [DefenseCost(**cost) for cost in kept["costs"]]


def _measure(comparison: Comparison, models: Models, prompts: Sequence[Any]) -> list[DefenseCost]:
    defenses = [make_defense(name, models.subject(0, name)) for name in comparison.named()]
    settings = ReplySettings(comparison.max_new_tokens, seed=0, min_new_tokens=comparison.max_new_tokens)
    seconds = {one.name: [[0.0] * comparison.cost_rounds for _ in prompts] for one in defenses}
    passes: dict[str, list[float]] = {one.name: [0.0] * len(prompts) for one in defenses}
    tokens: dict[str, list[float]] = {one.name: [0.0] * len(prompts) for one in defenses}
    peaks: dict[str, int] = {}
    for one in defenses:  # the first reply of each pays for what is set up once
        peaks[one.name] = _peak(one, prompts[0], settings, models.device)
    for turn, (number, place) in enumerate(itertools.product(range(comparison.cost_rounds), range(len(prompts)))):
        first = turn % len(defenses)  # none always comes after the same one
        for one in defenses[first:] + defenses[:first]:
            _wait(models.device)
            started = time.perf_counter()
            (reply,) = one.reply([prompts[place]], settings)
            _wait(models.device)
            seconds[one.name][place][number] = time.perf_counter() - started
            passes[one.name][place], tokens[one.name][place] = reply.cost.passes, reply.cost.tokens
    return [
        DefenseCost(
            one.name,
            seconds[one.name],
            passes[one.name],
            tokens[one.name],
            distinct_bytes(one.target.models()),
            peaks[one.name] if models.device == "cuda" else None,
            one.target.mogu.added_parameters() if one.target.mogu is not None else None,
        )
        for one in defenses
    ]


def distinct_bytes(models: Iterable[Any]) -> int:
    """Bytes of the parameters of several models; what they share counts once."""
    held = {
        tensor.data_ptr(): tensor.numel() * tensor.itemsize
        for model in models
        for tensor in itertools.chain(model.parameters(), model.buffers())
    }
    return sum(held.values())


def _peak(defense: Defense, prompt: Any, settings: ReplySettings, device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    defense.reply([prompt], settings)
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
