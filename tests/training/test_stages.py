"""One stage's training: against a loop written out by hand, in half precision, with gradient checkpointing, and when it goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed

from mogu import MoguConfig, MoguModel
from mogu.data import Record
from mogu.errors import TrainingError
from mogu.modeling.adapter_files import read_adapter
from mogu.training.examples import Example, responder_examples, router_examples
from mogu.training.recipe import ContrastiveStage, RouterStage, RunSection
from mogu.training.sampler import StepBatches
from mogu.training.stages import StageSetting, train_responder, train_router

pytestmark = pytest.mark.core

NAMES = ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def glad_examples(folder: Path, records: list[Record]) -> list[Example]:
    malicious = [record for record in records if record.label == "malicious"]
    return responder_examples(AutoTokenizer.from_pretrained(folder), malicious, answer="affirm", max_length=128)


def setting(tmp_path: Path, *, micro: int = 8, checkpointing: bool = False) -> StageSetting:
    run = RunSection(output=tmp_path / "out", micro_batch_size=micro, gradient_checkpointing=checkpointing, save_steps=100)
    return StageSetting(run, MoguConfig(router_hidden=16), "shared", 0)


def trained_glad(folder: Path, base: PreTrainedModel, examples: list[Example], one: StageSetting, stage: ContrastiveStage) -> Any:
    train_responder("glad", base, examples, stage, one, folder, shares=[1.0])
    (taken,) = folder.glob("step-*")
    return read_adapter(taken).weights


def by_hand(base: PreTrainedModel, examples: list[Example], stage: ContrastiveStage) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """AdamW over the mean of each step's losses, every loss from a pass of its own."""
    set_seed(0)
    model: Any = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=NAMES, task_type="CAUSAL_LM"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=0.0)
    steps = StepBatches([len(example) for example in examples], stage.batch_size, stage.batch_size, seed=0)
    for epoch in range(int(stage.epochs)):
        for (step,) in steps.of_epoch(epoch):
            ratios = []
            for example in (examples[index] for index in step):
                wanted, other = (
                    F.cross_entropy(
                        model(input_ids=torch.tensor([[*example.prompt, *answer]])).logits[0, len(example.prompt) - 1 : -1],
                        torch.tensor(answer),
                    )
                    for answer in example.answers
                )
                ratios.append(wanted / other)
            torch.stack(ratios).mean().backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
    layers = [model.get_submodule(f"base_model.model.{name}") for name in NAMES]
    return {name: (one.lora_A.default.weight, one.lora_B.default.weight) for name, one in zip(NAMES, layers, strict=True)}


@pytest.mark.parametrize("micro", [5, 2])
def test_a_stage_is_adamw_over_the_mean_of_each_steps_examples(
    micro: int, base_folder: Path, records: list[Record], tmp_path: Path
) -> None:
    """12 pairs in steps of 5: the last step of an epoch has 2, and 2 a pass make passes of 2, 2 and 1."""
    examples = glad_examples(base_folder, records)
    stage = ContrastiveStage(learning_rate=1e-2, epochs=2, batch_size=5, dropout=0.0)
    expected = by_hand(load(base_folder), examples, stage)
    found = trained_glad(tmp_path / "glad", load(base_folder), examples, setting(tmp_path, micro=micro), stage)
    for name in NAMES:
        assert expected[name][1].abs().max() > 0.02  # it has moved
        for half in (0, 1):
            torch.testing.assert_close(found[name][half], expected[name][half], rtol=1e-3, atol=1e-4)


def test_training_leaves_the_base_model_as_it_was(base_folder: Path, records: list[Record], tmp_path: Path) -> None:
    base, fresh = load(base_folder), load(base_folder)
    trained_glad(tmp_path / "glad", base, glad_examples(base_folder, records), setting(tmp_path), ContrastiveStage(epochs=1))
    assert [name for name, _ in base.named_modules()] == [name for name, _ in fresh.named_modules()]
    assert all(torch.equal(one, other) for one, other in zip(base.parameters(), fresh.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in base.parameters())


def folded(model: MoguModel) -> list[torch.Tensor]:
    return [layer.folded_router()[0] for layer in model.routed_layers]


def test_gradient_checkpointing_changes_nothing_but_memory(base_folder: Path, records: list[Record], tmp_path: Path) -> None:
    pairs = glad_examples(base_folder, records)
    singles = router_examples(AutoTokenizer.from_pretrained(base_folder), records, max_length=128)
    recomputed = []
    adapters, routers = [], []
    for checkpointing in (False, True):
        one = setting(tmp_path, checkpointing=checkpointing)
        base = load(base_folder)
        passes = [0]
        base.model.layers[1].input_layernorm.register_forward_hook(lambda *_, passes=passes: passes.__setitem__(0, passes[0] + 1))
        stage = ContrastiveStage(learning_rate=1e-2, epochs=2, dropout=0.0)
        adapters.append(trained_glad(tmp_path / f"glad-{checkpointing}", base, pairs, one, stage))
        model = MoguModel.from_base(base, one.config)
        train_router(
            model, singles, RouterStage(learning_rate=1e-2, epochs=2), 2.0, one, tmp_path / f"router-{checkpointing}", title="router"
        )
        routers.append(folded(model))
        recomputed.append(passes[0])
        assert not any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
    assert recomputed[1] == 2 * recomputed[0]
    for name in NAMES:
        torch.testing.assert_close(adapters[0][name], adapters[1][name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(routers[0], routers[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_trained_on_a_half_precision_base_is_float32(
    dtype: torch.dtype, base_folder: Path, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[torch.dtype]] = {"parameters": set(), "moments": set()}
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        seen["parameters"] |= {one.dtype for group in self.param_groups for one in group["params"]}
        seen["moments"] |= {state["exp_avg"].dtype for state in self.state.values()}
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    base = load(base_folder, dtype)
    one = setting(tmp_path)
    weights = trained_glad(tmp_path / "glad", base, glad_examples(base_folder, records), one, ContrastiveStage(epochs=1))
    assert all(half.dtype == torch.float32 for both in weights.values() for half in both)
    model = MoguModel.from_base(base, one.config)
    singles = router_examples(AutoTokenizer.from_pretrained(base_folder), records, max_length=128)
    before = folded(model)
    train_router(model, singles, RouterStage(epochs=1), 2.0, one, tmp_path / "router", title="router")
    assert seen == {"parameters": {torch.float32}, "moments": {torch.float32}}
    assert all(not torch.equal(one, other) and torch.isfinite(other).all() for one, other in zip(before, folded(model), strict=True))


def test_a_loss_that_is_no_number_stops_with_step_and_record(base_folder: Path, records: list[Record], tmp_path: Path) -> None:
    """The embedding of a byte that a single record uses is broken, as a flipped bit on a disk would leave it."""
    broken = records[-1].model_copy(update={"id": "the-broken-one", "reject": "No §."})
    base = load(base_folder)
    token = AutoTokenizer.from_pretrained(base_folder)("§", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        base.model.embed_tokens.weight[token] = float("nan")
    examples = glad_examples(base_folder, [*records[:-1], broken])
    stage = ContrastiveStage(epochs=1, batch_size=1)
    order = [index for ((index,),) in StepBatches([len(one) for one in examples], 1, 1, seed=0).of_epoch(0)]
    step = 1 + order.index(next(index for index, one in enumerate(examples) if one.record_id == "the-broken-one"))
    with pytest.raises(TrainingError, match=rf"not a number at step {step}, for the record 'the-broken-one'"):
        train_responder("glad", base, examples, stage, setting(tmp_path), tmp_path / "glad", shares=[1.0])
    assert not list((tmp_path / "glad").glob("step-*"))
    assert not any("lora" in name for name, _ in base.named_modules())
