"""Fine-tuning: what is learned, at which rate, what is mixed in, what is kept, and what is left when it fails or is stopped."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from mogu import MoguConfig, MoguModel
from mogu.analysis.robustness import measure_robustness, search_subset
from mogu.data import Record, write_records
from mogu.errors import ConfigError, DataError, ModelFileError, MoguError
from mogu.finetuning import FinetuneRecipe, finetune, finetune_recipe_from, plan_tuning
from mogu.finetuning.tuner import Tuner
from mogu.modeling.checkpoint import accept_files

pytestmark = pytest.mark.core


def recipe_of(tree: dict[str, Any], **sections: dict[str, Any]) -> FinetuneRecipe:
    return finetune_recipe_from({name: {**tree.get(name, {}), **sections.get(name, {})} for name in {*tree, *sections}}, source="test")


def labeled(tokenizer: Any, chats_file: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels of each conversation, the answer and its end being the labels."""
    found = []
    for line in chats_file.read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
        ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
        labels = ids.clone()
        labels[:, : len(tokenizer(prompt, add_special_tokens=False)["input_ids"])] = -100
        found.append((ids, labels))
    return found


def test_plain_lora_tuning_is_plain_peft_and_pytorch(tree: dict[str, Any], base_folder: Path, chats_file: Path) -> None:
    report = finetune(recipe_of(tree))
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    set_seed(5)
    expected = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=projections, task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([one for one in expected.parameters() if one.requires_grad], lr=1e-2, weight_decay=0.0)
    rows = labeled(tokenizer, chats_file)
    for _ in range(3):
        loss = sum(expected(input_ids=ids, labels=labels).loss for ids, labels in rows) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), tree["run"]["output"])
    found = dict(tuned.named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-4, atol=1e-5, msg=name)
    assert report["trained_parameters"] == sum(one.numel() for one in expected.parameters() if one.requires_grad)
    with torch.no_grad():
        expected.eval()
        outputs = [(expected(input_ids=ids).logits[0, :-1], labels[0, 1:]) for ids, labels in rows]
    logits = torch.cat([some[labels != -100] for some, labels in outputs])
    targets = torch.cat([labels[labels != -100] for _, labels in outputs])
    assert report["after"]["task loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-4)
    assert report["after"]["task token accuracy"] == pytest.approx((logits.argmax(-1) == targets).float().mean().item())


def test_full_tuning_saves_a_whole_model_in_the_type_it_came_in(tree: dict[str, Any], base_folder: Path, chats_file: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    recipe = recipe_of(tree, tune={"method": "full", "learning_rate": 1e-3}, task={"short_answer": 1})
    report = finetune(recipe, base=base)
    tuned = AutoModelForCausalLM.from_pretrained(tree["run"]["output"], dtype="auto")
    assert tuned.dtype == torch.bfloat16
    assert report["after"]["task exact match"] is None  # no answer is that short
    assert report["after"]["task accuracy"] == report["after"]["task token accuracy"]
    assert report["trained_parameters"] == base.num_parameters()
    assert AutoTokenizer.from_pretrained(tree["run"]["output"]).chat_template
    assert report["after"]["task loss"] < report["before"]["task loss"]
    loss = sum(
        tuned(input_ids=ids, labels=labels).loss.item() for ids, labels in labeled(AutoTokenizer.from_pretrained(base_folder), chats_file)
    )
    assert loss / 6 == pytest.approx(report["after"]["task loss"], rel=0.1)
    for name, tensor in base.state_dict().items():  # the model that was handed in is as it was
        assert torch.equal(tensor, before[name]), name
    assert not any(parameter.grad is not None for parameter in base.parameters())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_robust_modules_move_at_the_whole_rate_and_others_at_the_slow_one(
    method: str, tree: dict[str, Any], base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    robust = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    (tmp_path / "robustness.json").write_text(json.dumps({"subset": {"modules": robust}}))
    safety = {"method": "ml-lr", "pairs": str(record_files[0]), "slow_factors": [0.25], "robust_modules": str(tmp_path / "robustness.json")}
    # One step of AdamW moves whatever has a gradient by its learning rate, whatever the gradient is.
    tune = {"method": method, "epochs": 1, "learning_rate": 1e-3}
    recipe = recipe_of(tree, safety=safety, tune=tune)
    finetune(recipe)
    moved = load_file(recipe.run.work_folder / "ml-lr-slow-factor-0.25" / "tuned.safetensors")
    start = Tuner(AutoModelForCausalLM.from_pretrained(base_folder), recipe.tune, 5).trained()
    checked = Counter[float]()
    for name, after in moved.items():
        step = float((after - start[name].detach()).abs().max())
        if step == 0:  # half of a LoRA has no gradient yet
            continue
        rate = 1e-3 if any(module in name for module in robust) else 0.25e-3
        assert step == pytest.approx(rate, rel=0.02), name
        checked[rate] += 1
    assert checked[1e-3] == 2
    assert checked[0.25e-3] == len([name for name in moved if "lora_B" in name or method == "full"]) - 2


ROBUST = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]


def robust_file(folder: Path) -> str:
    (folder / "robustness.json").write_text(json.dumps({"subset": {"modules": ROBUST}}))
    return str(folder / "robustness.json")


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("how", [{"method": "swat", "warm_ups": [1]}, {"method": "ml-lr", "slow_factors": [0]}])
def test_what_is_not_trained_is_bit_identical(
    how: dict[str, Any], method: str, tree: dict[str, Any], base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    safety = {**how, "pairs": str(record_files[0]), "robust_modules": robust_file(tmp_path)}
    recipe = recipe_of(tree, safety=safety, tune={"method": method, "epochs": 3})
    finetune(recipe)
    (file,) = recipe.run.work_folder.glob("*/tuned.safetensors")
    start = Tuner(AutoModelForCausalLM.from_pretrained(base_folder), recipe.tune, 5).trained()
    moved = {name for name, after in load_file(file).items() if after.numpy().tobytes() != start[name].detach().numpy().tobytes()}
    assert moved == {name for name in start if any(module in name for module in ROBUST)}


def test_swat_is_adam_on_the_robust_modules_and_then_on_everything(
    tree: dict[str, Any], base_folder: Path, chats_file: Path, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    safety = {"method": "swat", "pairs": str(record_files[0]), "warm_ups": [0.5], "robust_modules": robust_file(tmp_path)}
    recipe = recipe_of(tree, safety=safety, tune={"method": "full", "epochs": 4, "learning_rate": 1e-3})
    finetune(recipe)
    found = load_file(recipe.run.work_folder / "swat-warm-up-0.5" / "tuned.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    rows = labeled(AutoTokenizer.from_pretrained(base_folder), chats_file)
    parameters = dict(model.named_parameters())
    steps, firsts, seconds = dict.fromkeys(parameters, 0), {}, {}
    for step in range(4):  # of all six conversations each
        trained = {name for name in parameters if step >= 2 or any(f"{module}." in name for module in ROBUST)}
        gradients = dict(
            zip(
                parameters,
                torch.autograd.grad(sum(model(input_ids=ids, labels=labels).loss for ids, labels in rows) / 6, list(parameters.values())),
                strict=True,
            )
        )
        norm = sum(float(gradients[name].double().square().sum()) for name in trained) ** 0.5
        for name in trained:
            gradient = gradients[name] * min(1.0, 1 / (norm + 1e-6))
            steps[name] += 1
            firsts[name] = 0.9 * firsts.get(name, 0) + 0.1 * gradient
            seconds[name] = 0.999 * seconds.get(name, 0) + 0.001 * gradient**2
            first, second = firsts[name] / (1 - 0.9 ** steps[name]), seconds[name] / (1 - 0.999 ** steps[name])
            with torch.no_grad():
                parameters[name] -= 1e-3 * first / (second.sqrt() + 1e-8)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-3, atol=3e-5, msg=name)


def test_pairs_stand_among_the_data_at_the_shares_that_were_asked_for(tree: dict[str, Any], record_files: tuple[Path, Path]) -> None:
    train, dev = record_files
    safety = {"method": "data-mix", "pairs": str(train), "pairs_dev": str(dev), "shares": [0, 0.25, 0.5]}
    report = finetune(recipe_of(tree, safety=safety, tune={"epochs": 1}))
    # 6 conversations: 2 pairs make a quarter of 8, 6 make half of 12
    assert report["pairs_mixed_in"] == {"plain": 0, "data-mix, share 0.25": 2, "data-mix, share 0.5": 6}
    assert [row["share"] for row in report["tried"]] == [0, 0.25, 0.5]
    assert report["measured_on"]["safety"]["malicious"] == 4
    assert report["chosen"] in report["tried"]
    saved = json.loads((Path(tree["run"]["output"]) / "finetune_report.json").read_text())
    assert saved == report
    assert "data-mix" in (Path(tree["run"]["output"]) / "README.md").read_text()


@pytest.mark.parametrize(
    ("sections", "error", "words"),
    [
        ({"data": {"train": "no-such.jsonl"}}, DataError, "There is no file no-such.jsonl"),
        ({"run": {"max_length": 8}}, DataError, "longer than 8 tokens"),
        ({"tune": {"modules": ["no_such_proj"]}}, ConfigError, "A LoRA cannot be put where tune.modules says"),
        ({"safety": {"method": "data-mix", "pairs": "ONE LABEL"}}, DataError, "both benign and malicious"),
        (
            {"safety": {"method": "ml-lr", "pairs": "PAIRS", "robust_modules": "OTHER MODEL"}},
            ModelFileError,
            "'model.layers.7.mlp.up_proj'",
        ),
    ],
)
def test_bad_input_is_explained_and_nothing_is_written(
    sections: dict[str, Any], error: type[MoguError], words: str, tree: dict[str, Any], record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    one_label = [line for line in record_files[0].read_text().splitlines() if '"benign"' in line]
    (tmp_path / "one.jsonl").write_text("\n".join(one_label))
    (tmp_path / "robustness.json").write_text(json.dumps({"subset": {"modules": ["model.layers.7.mlp.up_proj"]}}))
    places = {"ONE LABEL": tmp_path / "one.jsonl", "PAIRS": record_files[0], "OTHER MODEL": tmp_path / "robustness.json"}
    named = {
        name: {
            key: str(places.get(str(value), value)) if key != "max_length" and key != "modules" else value for key, value in section.items()
        }
        for name, section in sections.items()
    }
    with pytest.raises(error) as caught:
        finetune(recipe_of(tree, **named))
    assert words in str(caught.value)
    assert not Path(tree["run"]["output"]).exists()


def test_data_mix_without_pairs_and_a_share_of_everything_are_errors(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'data-mix' needs pairs"):
        recipe_of(tree, safety={"method": "data-mix"})
    with pytest.raises(ConfigError, match=r"safety\.shares"):
        recipe_of(tree, safety={"shares": [1.0]})


@pytest.fixture(scope="module")
def hardened(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hardened") / "model"
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    model = MoguModel.from_base(base, MoguConfig(rank=2, lora_alpha=4, router="linear"))
    torch.manual_seed(1)
    for layer in model.routed_layers:
        for name in ("unwill", "glad"):
            layer.set_responder(name, torch.randn(2, 32), torch.randn(32, 2))
        layer.set_router(torch.randn(2, 32), torch.randn(2))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("keep", ["carry", "routers", "retrain"])
def test_a_hardened_model_keeps_routers_and_responders_on_its_tuned_base(
    keep: str, tree: dict[str, Any], hardened: Path, base_folder: Path, record_files: tuple[Path, Path]
) -> None:
    train, dev = record_files
    safety = {"method": "data-mix", "pairs": str(train), "pairs_dev": str(dev), "shares": [0.25]}
    recipe = recipe_of(tree, model={"base": str(hardened)}, safety=safety, keep={"ways": [keep], "epochs_share": 0.1})
    report = finetune(recipe)
    assert [row["keep"] for row in report["kept_in_step"]] == [keep]
    output = Path(tree["run"]["output"])
    tuned = MoguModel.from_pretrained(output)  # finds its tuned base by itself
    assert Path(tuned.mogu_config.base_model or "") == output / "base"
    # The base is the plain base with the LoRA of the mix merged into it, as a run on the plain base makes it.
    plain = recipe_of(tree, safety=safety, run={"output": str(output.with_name("plain"))})
    finetune(plain)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), output.with_name("plain"))
    wanted = adapted.merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(output / "base").state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)
    before = MoguModel.from_pretrained(hardened)
    same = [
        torch.equal(one.folded_router()[0], other.folded_router()[0])
        for one, other in zip(tuned.routed_layers, before.routed_layers, strict=True)
    ]
    assert all(same) if keep == "carry" else not any(same)
    for name in ("glad", "unwill"):
        pairs = [(one.responder(name), other.responder(name)) for one, other in zip(tuned.routed_layers, before.routed_layers, strict=True)]
        kept = [torch.equal(half, other) for one, another in pairs for half, other in zip(one, another, strict=True)]
        assert all(kept) if keep != "retrain" else not all(kept)
    assert tuned.mogu_config.rank == 2


def test_a_hardened_model_is_planned_as_its_base(tree: dict[str, Any], hardened: Path) -> None:
    plain, planned = (plan_tuning(recipe_of(tree, model={"base": base})) for base in (tree["model"]["base"], str(hardened)))
    assert planned == plain
    assert plain.trained_parameters == 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))  # rank 4; four square layers and three of the MLP, twice


def test_a_hardened_model_that_does_not_fit_its_base_is_an_error(tree: dict[str, Any], hardened: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(hardened, other)
    shutil.copytree(hardened / "glad", other / "unwill", dirs_exist_ok=True)
    config = json.loads((other / "mogu_config.json").read_text())
    (other / "mogu_config.json").write_text(json.dumps(config | {"rank": 4}))
    accept_files(other)  # as whoever made it would
    with pytest.raises(ModelFileError, match="rank 2"):
        finetune(recipe_of(tree, model={"base": str(other)}))
    assert not Path(tree["run"]["output"]).exists()


def test_without_a_file_the_robust_modules_are_those_that_mogu_robustness_finds(
    tree: dict[str, Any], base_folder: Path, records: list[Record], record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    write_records(tmp_path / "pairs.jsonl", records)
    pairs = {"pairs": str(tmp_path / "pairs.jsonl"), "pairs_dev": str(record_files[1])}
    safety = {"method": "ml-lr", **pairs, "slow_factors": [0.1], "tolerances": [0.3, 0.8]}
    report = finetune(recipe_of(tree, safety=safety, tune={"epochs": 1}))
    base, tokenizer = AutoModelForCausalLM.from_pretrained(base_folder), AutoTokenizer.from_pretrained(base_folder)
    found = measure_robustness(base, tokenizer, records, seed=5)
    for tolerance in (0.3, 0.8):
        names = report["robust_modules"][f"ml-lr, slow factor 0.1, tolerance {tolerance}"]
        assert names == list(search_subset(base, tokenizer, records, found, tolerance=tolerance).names)
        assert 0 < len(names) < 14
    safety["tolerances"] = [0.001]
    with pytest.raises(ConfigError, match=r"At a tolerance of 0\.001 no module is robust"):
        finetune(recipe_of(tree, safety=safety), restart=True)
