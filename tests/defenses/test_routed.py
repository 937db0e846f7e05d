"""MoGU as a defense: its dial, its details, and the models it refuses."""

from __future__ import annotations

import pytest

from mogu import MoguConfig, MoguModel
from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings
from mogu.modeling.shared_weights import share_weights


@pytest.fixture
def untrained_mogu(lab_target: TargetModel) -> TargetModel:
    model = MoguModel.from_base(share_weights(lab_target.base), MoguConfig(router_hidden=8))
    model.tokenizer = lab_target.tokenizer
    return TargetModel(lab_target.base, lab_target.tokenizer, mogu=model.eval())


def test_the_dial_is_shifted_for_the_reply_only(untrained_mogu: TargetModel, conversations: list[Conversation]) -> None:

    scores = {}
    for dial in (-2.0, 2.0):
        replies = make_defense("mogu", untrained_mogu, dial=dial).reply(conversations[:3], ReplySettings(24))
        scores[dial] = [reply.details["score"] for reply in replies]
        assert all(len(reply.details["unwill"]) == len(reply.details["glad"]) == 4 for reply in replies)
        assert untrained_mogu.require_mogu().dial == 0.0
    # Untrained routers are zero, so unwill's share is σ(δ) / (σ(δ) + σ(-δ)) = σ(δ) for every prompt.
    assert scores[2.0] == pytest.approx([0.880797] * 3, abs=1e-5)
    assert scores[-2.0] == pytest.approx([0.119203] * 3, abs=1e-5)


def test_a_plain_base_model_is_refused(lab_target: TargetModel) -> None:
    with pytest.raises(ConfigError, match="plain base model"):
        make_defense("mogu", lab_target)
