"""A saved gated model: what is in its folder, that PEFT alone can load its responders, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from mogu import MoguError, MoguModel
from mogu.modeling.config import MoguConfig
from mogu.modeling.gated.model import GatedModel
from tests.modeling.gated.test_gated_generation import GREEDY, PROMPTS, answers, who_answers

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def saved(make_gated, tmp_path_factory):
    model, slow = make_gated()
    folder = tmp_path_factory.mktemp("gated") / "saved"
    model.save_pretrained(folder)
    return model, slow, folder


def test_the_folder_holds_responders_gate_and_thresholds(saved):
    _, _, folder = saved
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "base_identity.safetensors", "careful", "mogu_config.json", "router.safetensors", "unwill"]
    assert sorted(load_file(folder / "router.safetensors")) == [
        *("gate.0.weight", "gate.1.weight", "gate.bias", "stream.1.weight", "stream.bias", "stream.prompt")
    ]
    config = json.loads((folder / "mogu_config.json").read_text())
    assert (config["format_version"], config["gate"]["refuse"], config["gate"]["after"]) == (5, 0.7, [61, 62])


def test_a_loaded_model_answers_as_the_saved_one(saved, make_base):
    model, slow, folder = saved
    again = MoguModel.from_pretrained(folder, base_model=make_base("llama"))
    assert isinstance(again, GatedModel)
    for ids in PROMPTS[:8]:
        batch = torch.tensor([ids])
        assert torch.equal(again.prompt_logits(batch), model.prompt_logits(batch))
        assert answers(again.generate(batch, **GREEDY), len(ids)) == [slow.greedy(ids, who_answers(model, slow, ids), 8)]


def test_peft_alone_loads_a_responder(saved, make_base):
    _, slow, folder = saved
    for who in ("unwill", "careful"):
        alone = PeftModel.from_pretrained(copy.deepcopy(make_base("llama")), str(folder / who)).eval()
        ids = torch.tensor([PROMPTS[0]])
        with torch.no_grad():
            assert torch.allclose(alone(input_ids=ids).logits, slow.models[who](input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"gate.0.weight": torch.zeros(2, 32)},
        {"gate.0.weight": torch.zeros(7, 32), "gate.1.weight": torch.zeros(7, 32)},
        {"gate.1.weight": torch.zeros(8, 31)},
        {"gate.bias": torch.zeros(2)},
        {"gate.9.weight": torch.zeros(6, 32)},
        {"stream.1.weight": torch.zeros(2, 16)},
        {"layers.0.weight": torch.zeros(2, 32)},
        {"gate.0.weight": torch.full((8, 32), float("nan"))},
        {"gate.bias": None},
    ],
    ids=lambda change: str({key: None if value is None else list(value.shape) for key, value in change.items()}),
)
def test_a_broken_gate_is_refused_and_leaves_the_base_model_alone(saved, make_base, tmp_path, change):
    _, slow, folder = saved
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "router.safetensors") | change
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, broken / "router.safetensors")
    base = make_base("llama")
    with pytest.raises(MoguError):
        MoguModel.from_pretrained(broken, base_model=base)
    assert answers(base.generate(torch.tensor([PROMPTS[0]]), **GREEDY), len(PROMPTS[0])) == [slow.greedy(PROMPTS[0], "base", 8)]


@pytest.mark.parametrize(
    "change",
    [
        {"gate": None},
        {"careful": None},
        {"gate": {"refuse": 0.3, "careful": 0.4}},
        {"gate": {"refuse": 1.5}},
        {"backbone": {"rank": 1}},
    ],
)
def test_settings_that_contradict_each_other_are_refused(saved, change):
    _, _, folder = saved
    config = json.loads((folder / "mogu_config.json").read_text()) | change
    with pytest.raises(MoguError):
        MoguConfig.from_json(json.dumps(config), "test")
