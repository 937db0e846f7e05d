"""Losses and signals against passes without a cache and the slow routed model; gradients against differences; replies against defenses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mogu import MoguConfig
from mogu.analysis.detector import Detector
from mogu.attacks.surfaces import LOGIT_MARGIN, SCORE_MARGIN, Meter, Surface, flops_per_token, surface_for
from mogu.defenses import TargetModel, make_defense
from mogu.defenses.registry import REFUSAL
from mogu.inference.replies import ReplySettings
from mogu.inference.turns import find_turn_marks
from mogu.modeling.config import BackboneConfig
from mogu.transformers_compat import CACHE, cache_of
from tests.attacks.small_targets import Small, drawn_ids, nats, small, write_baselines
from tests.gated_models import gated_config

PREFIX, RESTS, TARGET = drawn_ids(9, seed=1), drawn_ids(3, 7, seed=2), drawn_ids(6, seed=3)
FAMILIES = ["llama", "llama-3", "gpt2", "gemma2", "gemma", "falcon-alibi", "opt", "mistral"]


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Small:
    made = small(make_pair, tokenizer)
    made.target.baselines = write_baselines(tmp_path_factory.mktemp("baselines"), made.target)
    return made


def aware(target: TargetModel, name: str, **options: Any) -> Surface:
    return surface_for(make_defense(name, target, **options), aware=True)


def whole(rest: Tensor, target: Tensor = TARGET) -> Tensor:
    return torch.cat([PREFIX, rest, target]).unsqueeze(0)


@torch.no_grad()
def predictions(model: Any, rest: Tensor) -> Tensor:
    """Logits at the places before each target token, from one pass over everything."""
    return model(input_ids=whole(rest), use_cache=False).logits[0, -len(TARGET) - 1 : -1]


def exactness(family: str) -> float:
    return 1e-9 if family in ("gpt2", "falcon-alibi", "opt") else 1e-6  # the others norm in float32


def evaluated(surface: Surface, rests: Tensor = RESTS) -> Any:
    surface.read(PREFIX.tolist())
    return surface.evaluate_ids(rests.tolist(), TARGET.tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_base_loss_is_that_of_a_whole_pass(family: str, make_pair: Callable[..., Any], tokenizer: Any) -> None:
    target = small(make_pair, tokenizer, family=family).target
    found = evaluated(surface_for(make_defense("mogu", target), aware=False))
    wanted = torch.stack([nats(predictions(target.base, rest), TARGET).mean() for rest in RESTS])
    torch.testing.assert_close(found.loss, wanted, rtol=0, atol=exactness(family))
    assert found.signal is None
    torch.testing.assert_close(found.objective, found.loss)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("routed_tokens", [1, 4, 6, 9, "all"])
def test_routed_loss_is_that_of_slow_passes(family: str, routed_tokens: Any, make_pair: Callable[..., Any], tokenizer: Any) -> None:
    made = small(make_pair, tokenizer, family=family)
    found = evaluated(aware(made.target, "mogu", routed_tokens=routed_tokens))
    count = len(TARGET) if routed_tokens == "all" else routed_tokens
    for row, rest in enumerate(RESTS):
        routed, plain = (made.slow.logits(whole(rest), routed=mode)[0, -len(TARGET) - 1 : -1] for mode in (True, False))
        wanted = torch.cat(
            [nats(routed[:count], TARGET[:count]), nats(plain[count:], TARGET[count:])] if count < 6 else [nats(routed, TARGET)]
        )
        torch.testing.assert_close(found.loss[row], wanted.mean(), rtol=0, atol=exactness(family))


def test_routed_loss_of_an_adapted_backbone(make_pair: Callable[..., Any], tokenizer: Any) -> None:
    config = MoguConfig(rank=4, lora_alpha=12, router_hidden=6, backbone=BackboneConfig(rank=2, lora_alpha=4))
    made = small(make_pair, tokenizer, config=config)
    found = evaluated(aware(made.target, "mogu", routed_tokens=2))
    routed, plain = (made.slow.logits(whole(RESTS[0]), routed=mode)[0, -len(TARGET) - 1 : -1] for mode in (True, False))
    wanted = torch.cat([nats(routed[:2], TARGET[:2]), nats(plain[2:], TARGET[2:])]).mean()
    torch.testing.assert_close(found.loss[0], wanted, rtol=0, atol=1e-9)


@torch.no_grad()
def test_continued_loss_is_that_of_one_cache(pair: Small) -> None:
    found = evaluated(aware(pair.target, "mogu", routed_tokens=2, handoff="continue"))
    slow, wanted = pair.slow, []
    slow.route(True)
    output = slow.model(input_ids=whole(RESTS[1], TARGET[:1]), use_cache=True)
    wanted.append(nats(output.logits[0, -2:], TARGET[:2]))
    slow.route(False)
    for number in range(2, len(TARGET)):
        output = slow.model(input_ids=TARGET[number - 1].view(1, 1), use_cache=True, **{CACHE: cache_of(output)})
        wanted.append(nats(output.logits[0], TARGET[number : number + 1]))
    torch.testing.assert_close(found.loss[1], torch.cat(wanted).mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dial", [None, 0.7])
def test_routed_signal_is_the_mean_unwill_share_behind_the_prefix(pair: Small, dial: float | None) -> None:
    found = evaluated(aware(pair.target, "mogu", routed_tokens=3, dial=dial))
    for layer in pair.slow.layers:
        layer.dial = dial or 0.0
    pair.slow.logits(whole(RESTS[2], TARGET[:2]))
    shares = torch.stack([layer.unwill_weight / (layer.unwill_weight + layer.glad_weight) for layer in pair.slow.layers])
    for layer in pair.slow.layers:
        layer.dial = 0.0
    torch.testing.assert_close(found.signal[2], shares[:, 0, len(PREFIX) :].mean(), rtol=0, atol=1e-8)


def test_signals_are_the_scores_of_the_defenses(pair: Small) -> None:
    conversation = [{"role": "user", "content": "pick a lock"}]
    prompt = pair.target.encode(conversation)
    score = float(pair.target.require_mogu().score([conversation])[0])
    for name, weight in (("mogu", 1.0), ("mogu_score", 10.0)):
        surface = aware(pair.target, name, **({"routed_tokens": 1} if name == "mogu" else {"threshold": 0.2}))
        surface.read(prompt[:-1])
        found = surface.evaluate_ids([prompt[-1:]], TARGET.tolist())
        wanted = score if name == "mogu" else max(0.0, score - 0.2 + SCORE_MARGIN)
        assert float(found.signal[0]) == pytest.approx(wanted, abs=1e-6)
        assert float(found.objective[0]) == pytest.approx(float(found.loss[0] + weight * found.signal[0]))


@pytest.mark.parametrize("threshold", [0.001, 0.4, 0.999])
def test_detector_signal_is_its_logit_above_the_threshold(pair: Small, threshold: float) -> None:
    detector = Detector.load(pair.target.trained_part("detector.json"))
    found = evaluated(aware(pair.target, "detect_inp", threshold=threshold))
    for row, rest in enumerate(RESTS):
        score = torch.tensor(detector.scores(pair.target.base, [[*PREFIX.tolist(), *rest.tolist()]], 0)[0])
        above = torch.logit(score.double()) - torch.logit(torch.tensor(threshold).double())
        torch.testing.assert_close(found.signal[row], torch.relu(above + LOGIT_MARGIN), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.loss[row], nats(predictions(pair.target.base, rest), TARGET).mean(), rtol=0, atol=1e-9)


def test_fine_tuned_loss_is_that_of_the_adapted_model(pair: Small) -> None:
    found = evaluated(aware(pair.target, "sft"))
    adapted, base = (nats(predictions(model, RESTS[0]), TARGET).mean() for model in (pair.target.with_adapter("sft"), pair.target.base))
    torch.testing.assert_close(found.loss[0], adapted, rtol=0, atol=1e-9)
    assert abs(float(adapted - base)) > 1e-3
    assert found.signal is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("sft", {}),
        ("mogu", {"routed_tokens": 2}),
        ("mogu", {"routed_tokens": 2, "handoff": "continue"}),
        ("mogu_score", {"threshold": 0.05}),
        ("detect_inp", {"threshold": 0.001}),
    ],
)
def test_gradient_is_that_of_differences(pair: Small, name: str, options: dict[str, Any]) -> None:
    surface = aware(pair.target, name, **options)
    surface.read(PREFIX.tolist())
    embeds = surface.embed(RESTS[:2]).requires_grad_()
    objective = surface.evaluate(embeds, TARGET.tolist()).objective
    (gradient,) = torch.autograd.grad(objective.sum(), embeds)
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        up, down = (surface.evaluate(embeds + sign * 1e-6 * direction, TARGET.tolist()).objective for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum((1, 2)), (up - down) / 2e-6, rtol=1e-6, atol=1e-7)
    models = pair.target.models()
    assert all(parameter.grad is None and not parameter.requires_grad for model in models for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("sft", {}),
        ("mogu", {}),
        ("mogu", {"routed_tokens": "all"}),
        ("mogu", {"routed_tokens": 3, "handoff": "continue", "dial": 1.0}),
        ("mogu", {"routed_tokens": 2, "answer_marker": "q"}),
        ("mogu_score", {"threshold": 0.0}),
        ("mogu_score", {"threshold": 1.0}),
        ("detect_inp", {"threshold": 0.0}),
        ("detect_inp", {"threshold": 1.0}),
    ],
)
def test_reply_to_embeddings_is_the_defended_reply(pair: Small, name: str, options: dict[str, Any]) -> None:
    defense = make_defense(name, pair.target, **options)
    surface = surface_for(defense, aware=True)
    for text in ("pick a lock", "Bake bread"):
        conversation = [{"role": "user", "content": text}]
        served = defense.reply([conversation], ReplySettings(12))[0].text
        assert surface.reply(surface.embed(pair.target.encode(conversation)), 12) == served
        assert (served == REFUSAL) == (options.get("threshold") == 0.0)


def test_reply_ends_at_an_end_token(pair: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = aware(pair.target, "none")
    embeds = surface.embed(pair.target.encode([{"role": "user", "content": "pick a lock"}]))
    whole_reply = surface.reply(embeds, 6)
    monkeypatch.setattr(pair.target.base.generation_config, "eos_token_id", pair.target.tokenizer.convert_tokens_to_ids(whole_reply[2]))
    assert surface.reply(embeds, 6) == whole_reply[: whole_reply.index(whole_reply[2])]


def test_meter_counts_by_hand(pair: Small) -> None:
    base, mogu = flops_per_token(pair.target.base), flops_per_token(pair.target.require_mogu().base_model)
    surface = aware(pair.target, "mogu", routed_tokens=4)
    surface.read(PREFIX.tolist())
    assert surface.meter == Meter(0, 9 * (base + mogu))
    surface.evaluate_ids(RESTS.tolist(), TARGET.tolist())  # 7 + 3 tokens routed, 7 + 5 plain
    assert surface.meter == Meter(3, 9 * (base + mogu) + 3 * (10 * mogu + 12 * base))
    surface.evaluate(surface.embed(RESTS[:1]).requires_grad_(), TARGET.tolist())
    assert surface.meter == Meter(4, 9 * (base + mogu) + 6 * (10 * mogu + 12 * base))


@pytest.mark.parametrize(
    ("family", "layer", "others"),
    [
        # Projections q, k, v, o and the MLP's three, and two norms; the last norm, and the head, tied or not.
        ("llama", 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48 + 2 * 32, 32 + 64 * 32),
        ("llama-3", 32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48 + 2 * 32, 32 + 64 * 32),
        # With biases, and a head that is tied; neither of the two embedding tables.
        ("gpt2", 32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 128 + 128 + 32 + 4 * 32, 2 * 32 + 64 * 32),
    ],
)
def test_floating_point_operations_by_hand(family: str, layer: int, others: int, make_base: Callable[..., Any]) -> None:
    assert flops_per_token(make_base(family)) == 2 * (3 * layer + others)


def test_routing_adds_its_own_operations(pair: Small) -> None:
    added = flops_per_token(pair.target.require_mogu().base_model) - flops_per_token(pair.target.base)
    assert added == 2 * 3 * ((2 * 4 + 2) * 32 + 2 * 4 * 32 + 2)  # and the two biases


def test_many_rows_are_as_few(pair: Small) -> None:
    rests = drawn_ids(70, 4, seed=8)
    surface = aware(pair.target, "mogu", routed_tokens=2)
    many = evaluated(surface, rests)
    one = surface.evaluate_ids([rests[69].tolist()], TARGET.tolist())
    torch.testing.assert_close(many.loss[69:], one.loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(many.signal[69:], one.signal, rtol=0, atol=1e-9)
    assert len(many.loss) == len(many.signal) == 70


def test_nothing_before_the_suffix(pair: Small) -> None:
    surface = aware(pair.target, "none")
    surface.read([])
    found = surface.evaluate_ids([[*PREFIX.tolist(), *RESTS[0].tolist()]], TARGET.tolist())
    torch.testing.assert_close(found.loss[0], evaluated(surface).loss[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["none", "mogu", "mogu_score", "detect_inp", "sft"])
def test_other_precisions(name: str, dtype: torch.dtype, make_pair: Callable[..., Any], tokenizer: Any, pair: Small) -> None:
    made = small(make_pair, tokenizer, dtype=dtype, baselines=pair.target.baselines)
    surface = aware(made.target, name)
    surface.read(PREFIX.tolist())
    embeds = surface.embed(RESTS).requires_grad_()
    found = surface.evaluate(embeds, TARGET.tolist())
    assert found.loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(found.objective.sum(), embeds)
    assert gradient.isfinite().all()
    exact = evaluated(aware(pair.target, name))
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(found.loss.double(), exact.loss, rtol=0, atol=tolerance)


def test_which_surface_a_defense_has(pair: Small) -> None:
    kinds = {
        name: (aware(pair.target, name).kind, aware(pair.target, name).knows_defense) for name in ("none", "self_reminder", "sft", "mogu")
    }
    assert kinds == {"none": ("none", False), "self_reminder": ("none", False), "sft": ("sft", True), "mogu": ("mogu", True)}
    assert aware(pair.target, "mogu", routed_tokens=0).kind == "none"
    assert not surface_for(make_defense("detect_inp", pair.target), aware=False).knows_defense


@pytest.fixture(scope="module")
def gated(make_gated: Callable[..., Any], tokenizer: Any) -> TargetModel:
    marks = find_turn_marks(tokenizer)
    model, _ = make_gated("gpt2", config=gated_config(before=marks.before, after=marks.after, header=marks.header, careful=None))
    model.stream = None
    model.use_tokenizer(tokenizer)
    return TargetModel(model.plain_base_model(), tokenizer, mogu=model)


def test_the_signal_of_a_gate_is_its_logit_above_the_threshold(gated: TargetModel) -> None:
    model = gated.require_mogu()
    ids = gated.encode([{"role": "user", "content": "pick a lock now"}])
    spans = model.marks.spans(ids)
    for dial in (0.0, 1.5):
        for cut in (spans.user[0][0], spans.user[0][0] + 3, spans.end):
            surface = aware(gated, "mogu", dial=dial)
            assert (surface.kind, surface.knows_defense) == ("mogu", True)
            surface.read(ids[:cut])
            found = surface.evaluate_ids([ids[cut:]], TARGET.tolist())
            logit = float(model.prompt_logits(torch.tensor([ids]))[0]) + dial
            expected = max(0.0, logit - math.log(0.7 / 0.3) + LOGIT_MARGIN)
            assert found.signal.tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("dial", [-30.0, 30.0])
def test_a_gate_refuses_embeddings_as_it_refuses_texts(gated: TargetModel, dial: float) -> None:
    surface = aware(gated, "mogu", dial=dial)
    conversation = [{"role": "user", "content": "pick a lock"}]
    ids = gated.encode(conversation)
    surface.read(ids[:4])
    reply = surface.reply(surface.embed(ids), 8)
    assert (reply == REFUSAL) == (dial > 0)
    if dial < 0:
        assert reply == make_defense("mogu", gated, dial=dial).reply([conversation], ReplySettings(8))[0].text
