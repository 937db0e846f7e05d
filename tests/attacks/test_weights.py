"""Tampering: what then answers, that ten steps teach what they should, and that the shared weights stay bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mogu.attacks import weights as module
from mogu.attacks.attempt import attack_info
from mogu.attacks.surfaces import surface_for
from mogu.attacks.weights import applies, fine_tune, harmless_pairs, tampered
from mogu.defenses import Defense, TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.inference.replies import ReplySettings, reply_batch
from tests.attacks.small_targets import BEHAVIOR, Small, attempts, nats, small, write_baselines

SETTINGS = ReplySettings(8)
PLAIN = [list(BEHAVIOR.conversation)]


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Small:
    made = small(make_pair, tokenizer)
    made.target.baselines = write_baselines(tmp_path_factory.mktemp("baselines"), made.target)
    return made


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "ANSWER_TOKENS", 10)


def state(target: TargetModel) -> dict[str, torch.Tensor]:
    models = {"base": target.base, "mogu": target.require_mogu(), "sft": target.with_adapter("sft")}
    return {f"{which} {name}": value.clone() for which, model in models.items() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["glad_alone", "ten_steps"])
def test_both_ask_plainly_and_once(name: str, pair: Small) -> None:
    surface = surface_for(make_defense("none", pair.target), aware=False)
    assert [attempt.conversation for attempt in attempts(name, surface, 1e9)] == [BEHAVIOR.conversation]
    assert attack_info(name).access == "weights"


def test_what_applies(pair: Small) -> None:
    defenses = {name: make_defense(name, pair.target) for name in ("none", "sft", "mogu", "mogu_score", "self_reminder")}
    assert [name for name, defense in defenses.items() if applies("glad_alone", defense)] == ["mogu"]
    assert all(applies("ten_steps", defense) for defense in defenses.values())
    for attack, defense in (("glad_alone", "sft"), ("plain", "mogu")):
        with pytest.raises(ConfigError, match="cannot be tampered with"), tampered(attack, defenses[defense]):
            pass


def test_glad_alone_is_the_glad_responder(pair: Small) -> None:
    model = pair.target.require_mogu()
    prompt = pair.target.encode(PLAIN[0])
    wanted: list[int] = []
    for layer in pair.slow.layers:  # α = 0, β = 1
        layer.dial = -1e9
    for _ in range(8):
        wanted.append(int(pair.slow.logits(torch.tensor([[*prompt, *wanted]]))[0, -1].argmax()))
    for layer in pair.slow.layers:
        layer.dial = 0.0
    before = state(pair.target)
    with tampered("glad_alone", make_defense("mogu", pair.target)) as answer:
        reply = answer(PLAIN, SETTINGS)[0]
    assert reply.text == pair.target.tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert reply.cost.tokens >= len(prompt) + 7
    assert model.routing_mode == "on"
    assert all(torch.equal(value, before[name]) for name, value in state(pair.target).items())


def test_harmless_pairs_are_the_base_s_own_answers(pair: Small, few_steps: None) -> None:
    pairs = harmless_pairs(pair.target)
    assert len(pairs) == 6
    for prompt, answer in pairs[:2]:
        reply = reply_batch(pair.target.base, pair.target.tokenizer, [prompt], ReplySettings(10))[0]
        assert answer == pair.target.tokenizer(reply.text)["input_ids"]
    assert len({tuple(prompt) for prompt, _ in pairs}) == 6


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "options"),
    [("mogu", {}), ("mogu", {"routed_tokens": "all"}), ("mogu", {"routed_tokens": 0}), ("sft", {}), ("none", {}), ("self_reminder", {})],
)
def test_ten_steps_teach_the_pairs_to_a_copy(name: str, options: dict[str, Any], pair: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARNING_RATE", 1e-2)
    before = state(pair.target)
    served: list[Defense] = []
    make = module.make_defense
    monkeypatch.setattr(module, "make_defense", lambda *arguments, **others: served.append(make(*arguments, **others)) or served[-1])
    defense = make_defense(name, pair.target, **options)
    with tampered("ten_steps", defense) as answer:
        replies = answer(PLAIN, SETTINGS)
    assert len(replies) == 1
    assert all(torch.equal(value, before[key]) for key, value in state(pair.target).items())
    changed = served[-1]
    assert changed.name == ("mogu" if name == "mogu" else "none")
    pointers = {parameter.data_ptr() for model in pair.target.models() for parameter in model.parameters()}
    assert not pointers & {parameter.data_ptr() for model in changed.target.models() for parameter in model.parameters()}
    losses = []
    for one in (defense, changed):
        surface = surface_for(one, aware=True)
        surface.read([])
        losses.append(sum(float(surface.evaluate_ids([prompt], answer).loss) for prompt, answer in harmless_pairs(pair.target)))
    assert losses[1] < losses[0] - 0.1


def test_fine_tuning_is_plain_adamw(pair: Small, few_steps: None) -> None:
    pairs = harmless_pairs(pair.target)[:3]
    model = copy.deepcopy(pair.target.base)
    reference = copy.deepcopy(pair.target.base).requires_grad_(True)
    fine_tune(model, pairs, lambda prompt, answer: module._nats(model, prompt, answer).mean())
    optimizer = torch.optim.AdamW(reference.parameters(), lr=module.LEARNING_RATE, weight_decay=0.0)
    losses = []
    for prompt, answer in pairs:
        logits = reference(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        losses.append(nats(logits, torch.tensor(answer)).mean())
    torch.stack(losses).mean().backward()
    optimizer.step()
    for (name, tuned), (_, wanted) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        torch.testing.assert_close(tuned, wanted.detach(), rtol=0, atol=1e-7, msg=name)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_is_trained_in_float32(make_pair: Callable[..., Any], tokenizer: Any, few_steps: None) -> None:
    made = small(make_pair, tokenizer, dtype=torch.bfloat16)
    with tampered("ten_steps", make_defense("mogu", made.target)) as answer:
        assert answer(PLAIN, SETTINGS)[0].tokens > 0
    assert made.target.base.dtype == torch.bfloat16
