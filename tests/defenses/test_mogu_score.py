"""MoGU's score as a classifier: it refuses where the score says so, and elsewhere the base model answers alone."""

from __future__ import annotations

import pytest
import torch

from mogu import MoguConfig, MoguModel
from mogu.defenses import REFUSAL, TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings
from mogu.modeling.shared_weights import share_weights

GREEDY = ReplySettings(16)


@pytest.fixture(scope="module")
def target(lab_target: TargetModel) -> TargetModel:
    """The lab's base under routers of random weights, whose scores differ from prompt to prompt."""
    torch.manual_seed(0)
    model = MoguModel.from_base(share_weights(lab_target.base), MoguConfig(router_hidden=8))
    with torch.no_grad():
        for layer in model.routed_layers:
            layer.down[-2:].normal_(std=0.2)
    model.tokenizer = lab_target.tokenizer
    return TargetModel(lab_target.base, lab_target.tokenizer, mogu=model.eval())


def test_it_refuses_by_the_models_score_and_answers_as_the_base_does(target: TargetModel, conversations: list[Conversation]) -> None:
    model = target.require_mogu()
    scores = [float(model.score([target.with_system_prompt(conversation)])[0]) for conversation in conversations]
    between = (min(scores) + max(scores)) / 2
    assert min(scores) < between < max(scores)
    plain = make_defense("none", target).reply(conversations, GREEDY)
    gated = make_defense("mogu_score", target, threshold=between).reply(conversations, GREEDY)
    for score, alone, reply in zip(scores, plain, gated, strict=True):
        assert reply.details["score"] == pytest.approx(score, abs=1e-5)
        assert reply.intervened is (score >= between)
        assert reply.text == (REFUSAL if score >= between else alone.text)


@pytest.mark.parametrize(("threshold", "refused"), [(0, True), (1, False)])
def test_the_ends_of_the_threshold(threshold: float, refused: bool, target: TargetModel, conversations: list[Conversation]) -> None:
    replies = make_defense("mogu_score", target, threshold=threshold).reply(conversations, GREEDY)
    assert {reply.intervened for reply in replies} == {refused}


def test_it_needs_a_hardened_model_and_a_share(target: TargetModel) -> None:
    with pytest.raises(ConfigError, match="The defense mogu_score was requested for a plain base model"):
        make_defense("mogu_score", TargetModel(target.base, target.tokenizer))
    with pytest.raises(ConfigError, match=r"threshold=2.*a number from 0 to 1"):
        make_defense("mogu_score", target, threshold=2)
