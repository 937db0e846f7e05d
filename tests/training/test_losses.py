"""The batched losses, and their gradients, against one example at a time, and against the published numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu import MoguConfig, MoguModel
from mogu.modeling.architectures import find_output_projections
from mogu.modeling.import_reference import import_reference
from mogu.training.attention_layout import choose_layout, likely_layout
from mogu.training.collator import Collator, Layout
from mogu.training.examples import Example
from mogu.training.losses import plain_responder_losses, responder_losses, router_losses, weight_losses
from mogu.training.recipe import Penalty

MakeBase = Callable[..., PreTrainedModel]
PAIRS = [
    Example("a", (5, 9, 13, 21, 34), ((17, 30, 8), (11, 29, 40, 52, 7)), malicious=True),
    Example("b", (44, 6), ((9,), (33, 12)), malicious=False),
    Example("c", (15, 16, 17, 18, 19, 20, 21), ((50, 51, 52, 53), (60,)), malicious=True),
]
SINGLES = [Example(pair.record_id, pair.prompt, pair.answers[:1], pair.malicious) for pair in PAIRS]
PENALTY = 1.5
SOME_FAMILIES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "gpt2",
    "gpt_neox",
    "falcon",
    "falcon-alibi",
    "opt",
    "qwen3_moe",
    "baichuan",
]
some_families = pytest.mark.parametrize("family", SOME_FAMILIES)


def batch_of(examples: list[Example], layout: Layout) -> dict[str, torch.Tensor]:
    return Collator(0, layout)(examples)


def one_cross_entropy(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """One sequence, unpadded, with the model's own mask and positions."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    return F.cross_entropy(logits[len(prompt) - 1 : -1].float(), torch.tensor(answer))


def one_ratio(model: Any, pair: Example) -> torch.Tensor:
    wanted, other = (one_cross_entropy(model, pair.prompt, answer) for answer in pair.answers)
    return wanted / other


def one_router_loss(model: MoguModel, example: Example, power: int = 2) -> torch.Tensor:
    loss = one_cross_entropy(model, example.prompt, example.answers[0])
    alpha, beta = model.routing_weights["unwill"].float(), model.routing_weights["glad"].float()
    unwill, glad = (1.0, 0.0) if example.malicious else (0.0, 1.0)
    return loss + PENALTY * (((alpha - unwill).abs() ** power).mean() + ((beta - glad).abs() ** power).mean())


def with_lora(base: PreTrainedModel) -> Any:
    projections = find_output_projections(base)
    names = [projection.name for projection in projections]
    fan_in_fan_out = isinstance(projections[0].module, Conv1D)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=names, fan_in_fan_out=fan_in_fan_out, init_lora_weights=False))
    return model.eval()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@some_families
def test_responder_losses_and_gradients_equal_one_example_at_a_time(family: str, make_base: MakeBase) -> None:
    base = make_base(family)
    layouts: set[Layout] = {"separate", choose_layout(base, longest=64)}
    model = with_lora(base)
    expected = torch.stack([one_ratio(model, pair) for pair in PAIRS])
    expected_gradients = gradients(model, expected.mean())
    assert expected_gradients
    for layout in layouts:
        losses = responder_losses(model, batch_of(PAIRS, layout), layout)
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5, check_dtype=False)
        found = gradients(model, losses.mean())
        assert found.keys() == expected_gradients.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(
                gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_plain_responder_losses_are_those_of_the_answer_to_learn(make_base: MakeBase) -> None:
    model = with_lora(make_base("llama"))
    expected = torch.stack([one_cross_entropy(model, pair.prompt, pair.answers[0]) for pair in PAIRS])
    for layout in ("separate", choose_layout(model, longest=64)):
        losses = plain_responder_losses(model, batch_of(PAIRS, layout), layout)
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5, check_dtype=False)


@some_families
@pytest.mark.parametrize(("penalty", "power"), [("l1", 1), ("l2", 2)])
def test_router_losses_and_gradients_equal_one_example_at_a_time(family: str, penalty: Penalty, power: int, make_base: MakeBase) -> None:
    base = make_base(family)
    layouts: set[Layout] = {"separate", choose_layout(base, longest=64)}
    model = MoguModel.from_base(base, MoguConfig(rank=4, router_hidden=8))
    for layer in model.routed_layers:
        with torch.no_grad():
            layer.up.normal_(std=0.3)
    model.injected.start_router_training()
    expected = torch.stack([one_router_loss(model, example, power) for example in SINGLES])
    expected_gradients = gradients(model, expected.mean())
    assert expected_gradients
    for layout in layouts:
        losses = router_losses(model, batch_of(SINGLES, layout), layout, PENALTY, penalty)
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5, check_dtype=False)
        found = gradients(model, losses.mean())
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("llama", "shared"),
        ("falcon", "shared"),
        ("gpt2", "shared"),
        ("qwen2", "shared"),
        ("falcon-alibi", "separate"),
        ("baichuan", "separate"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_over_the_prompt_is_shared_where_the_model_can(family: str, layout: Layout, dtype: torch.dtype, make_base: MakeBase) -> None:
    assert choose_layout(make_base(family, dtype), longest=64) == layout


def test_the_config_alone_foretells_whether_a_pass_is_shared(every_family: str, make_base: MakeBase) -> None:
    if every_family == "baichuan":
        pytest.skip("own code may do anything with a mask")
    base = make_base(every_family)
    assert likely_layout(base, 64) == choose_layout(base, 64)


def test_a_sliding_window_shorter_than_a_row_rules_sharing_out(make_base: MakeBase) -> None:
    assert choose_layout(make_base("mistral", sliding_window=32), longest=64) == "separate"
    assert choose_layout(make_base("mistral", sliding_window=128), longest=64) == "shared"


def test_the_prompt_of_a_pair_is_read_once_and_only_answers_have_logits(make_base: MakeBase) -> None:
    base = make_base()
    seen: dict[str, Any] = {}
    base.get_output_embeddings().register_forward_hook(lambda _, args, output: seen.update(logits=output.shape))
    batch = batch_of(PAIRS, "shared")
    responder_losses(base, batch, "shared")
    assert batch["input_ids"].shape == (len(PAIRS), max(len(pair) for pair in PAIRS))
    answer_tokens = sum(len(answer) for pair in PAIRS for answer in pair.answers)
    assert seen["logits"][:-1] == (1, answer_tokens)


@pytest.mark.parametrize("layout", ["shared", "separate"])
def test_published_numbers(layout: Layout, shared: Path) -> None:
    folder = shared / "reference-vectors" / "llama"
    expected = json.loads((folder / "expected_training.json").read_text())
    model = import_reference(
        str(folder / "base"), folder / "resp_unwill", folder / "resp_glad", folder / "router_layer" / "5920_router.pth"
    ).eval()
    prompt, affirm, reject = (tuple(expected[name]) for name in ("prompt", "affirm", "reject"))
    # A second, longer example makes padding of the first.
    longer = Example("longer", prompt + affirm, (affirm + reject, reject), malicious=True)
    close = functools.partial(pytest.approx, abs=1e-5)
    for mode, answers in (("glad", (affirm, reject)), ("unwill", (reject, affirm))):
        with model.routing(mode), torch.no_grad():
            losses = responder_losses(model, batch_of([Example("one", prompt, answers, True), longer], layout), layout)
        assert float(losses[0]) == close(expected[mode]["ratio_loss"])
    for name, answer, malicious in (("router_benign_affirm", affirm, False), ("router_malicious_reject", reject, True)):
        wanted = expected[name]
        longer_single = Example("longer", longer.prompt, longer.answers[:1], malicious)
        batch = batch_of([Example("one", prompt, (answer,), malicious), longer_single], layout)
        with torch.no_grad():
            losses = router_losses(model, batch, layout, wanted["lambda"])
            distances = weight_losses(model.routed_layers, batch)
        assert float(losses[0]) == close(wanted["total"])
        assert distances[0].tolist() == close([wanted["weight_loss_unwill"], wanted["weight_loss_glad"]])
