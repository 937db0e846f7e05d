"""The embedding attack: its loss falls, its replies are those of model and defense to embeddings, and it stops in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mogu.attacks.embedding import EVERY, REPLY_TOKENS, STEP, STEPS
from mogu.attacks.surfaces import Surface, surface_for
from mogu.defenses import make_defense
from tests.attacks.small_targets import BEHAVIOR, Small, attempts, small


@pytest.fixture(scope="module", params=[torch.float64, torch.bfloat16])
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any], tokenizer: Any) -> Small:
    return small(make_pair, tokenizer, dtype=request.param)


def test_loss_falls_and_replies_are_the_surface_s(pair: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.attacks.embedding.REPLY_TOKENS", 8)
    surface = surface_for(make_defense("mogu", pair.target), aware=True)
    values: list[float] = []
    prompts: list[torch.Tensor] = []
    evaluate, reply = surface.evaluate, surface.reply

    def evaluated(*arguments: Any) -> Any:
        found = evaluate(*arguments)
        values.append(float(found.objective))
        return found

    def replied(embeds: torch.Tensor, tokens: int) -> str:
        prompts.append(embeds)
        return reply(embeds, tokens)

    monkeypatch.setattr(surface, "evaluate", evaluated)
    monkeypatch.setattr(surface, "reply", replied)
    tried = attempts("embedding", surface, 1e12, most=4)
    assert values[-1] < values[0] - 0.5
    assert [attempt.label for attempt in tried] == [f"step {number * EVERY}" for number in range(1, 5)]
    assert [attempt.reply for attempt in tried] == [reply(prompt, 8) for prompt in prompts]
    assert all(attempt.conversation == BEHAVIOR.conversation for attempt in tried)
    # Every step moves each number by one length.
    length = STEP * float(surface.table.float().std())
    moved = ((prompts[1] - prompts[0]).abs() / length).round(decimals=2)
    assert float(moved.max()) <= EVERY
    assert (moved.amax(1) > 0).sum() == 39  # the suffix of twenty letters with spaces; the rest of the prompt stays


def test_it_stops_when_its_operations_are_spent(pair: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.attacks.embedding.REPLY_TOKENS", 2)
    surface: Surface = surface_for(make_defense("none", pair.target), aware=True)
    tried = attempts("embedding", surface, 1.0)
    assert [attempt.label for attempt in tried] == ["step 1"]
    assert len(attempts("embedding", surface_for(make_defense("none", pair.target), aware=True), 1e15)) == STEPS // EVERY
    assert REPLY_TOKENS > 8
