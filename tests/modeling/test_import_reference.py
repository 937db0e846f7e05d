"""What the published code computed, computed again from the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mogu import MoguModel
from mogu.inference.padding import left_pad
from mogu.modeling.import_reference import import_reference, read_published_routers

pytestmark = pytest.mark.core

PROMPTS = range(4)
LENGTH = 29


@pytest.fixture(scope="module")
def release(shared: Path) -> Path:
    return shared / "reference-vectors" / "llama"


@pytest.fixture(scope="module")
def expected(release: Path) -> dict[str, Tensor]:
    return load_file(release / "expected.safetensors")


@pytest.fixture(scope="module")
def answers(release: Path) -> list[dict[str, list[int]]]:
    greedy = json.loads((release / "expected_greedy.json").read_text())
    return [greedy[f"prompt{prompt}"] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def model(release: Path) -> MoguModel:
    router = release / "router_layer" / "5920_router.pth"
    return import_reference(release / "base", release / "resp_unwill", release / "resp_glad", router).eval()


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("mode", "name"), [("on", "mogu"), ("off", "base"), ("glad", "glad"), ("unwill", "unwill")])
def test_logits(model, expected, mode, name, prompt):
    with torch.no_grad(), model.routing(mode):
        logits = model(expected[f"prompt{prompt}.input_ids"]).logits
    torch.testing.assert_close(logits, expected[f"prompt{prompt}.{name}_logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_routing_weights(model, expected, prompt):
    with torch.no_grad():
        model(expected[f"prompt{prompt}.input_ids"])
    weights = model.routing_weights
    torch.testing.assert_close(weights["unwill"], expected[f"prompt{prompt}.alpha_unwill"].squeeze(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights["glad"], expected[f"prompt{prompt}.beta_glad"].squeeze(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_outputs(model, expected, answers, prompt):
    ids = expected[f"prompt{prompt}.input_ids"]
    options = {"do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": 0}
    routed = model.generate(ids, routed_tokens=5, handoff="recompute", **options)
    assert routed[0, ids.shape[1] :].tolist() == answers[prompt]["output_ids"]
    with model.routing("off"):
        assert model.generate(ids, **options)[0, ids.shape[1] :].tolist() == answers[prompt]["base_output_ids"]


def test_greedy_outputs_in_one_padded_batch(model, expected, answers):
    prompts = [expected[f"prompt{prompt}.input_ids"][0].tolist() for prompt in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) > 1
    batch = left_pad(prompts, 0, torch.device("cpu"))
    output = model.generate(**batch, do_sample=False, max_new_tokens=LENGTH, pad_token_id=0)[:, -LENGTH:]
    wanted = [answer["output_ids"] for answer in answers]
    assert any(len(ids) < LENGTH for ids in wanted)  # one answer ends early, and is padded to the others' length
    assert output.tolist() == [ids + [0] * (LENGTH - len(ids)) for ids in wanted]


def test_saved_in_our_layout_it_computes_the_same(model, expected, release, tmp_path):
    model.save_pretrained(tmp_path / "imported")
    loaded = MoguModel.from_pretrained(tmp_path / "imported")
    with torch.no_grad():
        logits = loaded(expected["prompt0.input_ids"]).logits
    torch.testing.assert_close(logits, expected["prompt0.mogu_logits"], atol=1e-4, rtol=0)
    assert not list((release / "base").glob("tokenizer*"))  # all of the above ran without one


def test_folding_is_exact(release):
    """The chain ``d → 512 → d → 1`` applied map by map in float64, against its fold."""
    file = release / "router_layer" / "5920_router.pth"
    state = {key: tensor.double() for key, tensor in torch.load(file, weights_only=True).items()}
    x = torch.randn(7, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for layer, (vectors, biases) in read_published_routers(file).items():
        for row, which in enumerate(("alpha_", "beta_")):
            part = f"model.routers.{layer}.{which}."
            hidden = x @ state[part + "linear_0.weight"].T
            hidden = hidden @ state[part + "linear_1.weight"].T + state[part + "linear_1.bias"]
            chained = (hidden @ state[part + "linear_2.weight"].T + state[part + "linear_2.bias"])[:, 0]
            torch.testing.assert_close(x @ vectors[row].double() + biases[row].double(), chained, atol=1e-5, rtol=1e-5)
