"""What the trained baselines learn from, their budget, and that finished parts are taken over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.detector import Detector
from mogu.analysis.minilm import MiniLM, MinilmDetector
from mogu.data import Record
from mogu.errors import ConfigError, DataError, MoguError
from mogu.training import Recipe, recipe_from, train_baselines
from mogu.training.baselines import Part
from mogu.training.collator import Collator
from mogu.training.examples import router_examples
from mogu.training.losses import answer_losses
from mogu.training.training_state import last_checkpoint

pytestmark = pytest.mark.core


@pytest.fixture
def recipe(base_folder: Path, tmp_path: Path) -> Recipe:
    tree: dict[str, Any] = {
        "method": "v1",
        "model": {"base": str(base_folder)},
        "data": {"train": "records"},
        "mogu": {"rank": 4, "lora_alpha": 12},
        "glad": {"learning_rate": 5e-3},
        "router": {"epochs": 4, "batch_size": 8},
        "run": {"output": tmp_path / "safer", "max_length": 128, "save_steps": 4},
    }
    return recipe_from(tree, source="of a test")


@pytest.fixture
def base(base_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base_folder).eval()


@pytest.fixture
def tokenizer(base_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_folder)


def silent(_: str) -> None:
    """Says nothing."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def losses(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], folder: Path | None) -> torch.Tensor:
    """Of each record the cross-entropy of the answer it is to get, each from a pass of its own."""
    from peft import PeftModel

    from mogu.modeling.shared_weights import share_weights

    model: Any = base if folder is None else PeftModel.from_pretrained(share_weights(base), str(folder)).eval()
    found = []
    for example in router_examples(tokenizer, records, max_length=128):
        (answer,) = example.answers
        with torch.no_grad():
            logits = model(torch.tensor([[*example.prompt, *answer]])).logits[0, len(example.prompt) - 1 : -1]
        found.append(F.cross_entropy(logits, torch.tensor(answer)))
    return torch.stack(found)


def test_the_loss_is_the_mean_over_the_answers_tokens(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record]
) -> None:
    batch = Collator(0, "separate")(router_examples(tokenizer, records, max_length=128))
    torch.testing.assert_close(answer_losses(base, batch, "separate"), losses(base, tokenizer, records, None), rtol=1e-4, atol=1e-5)


def test_the_parts_learn_what_is_theirs(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.named_parameters())
    malicious = torch.tensor([record.label == "malicious" for record in records])
    plain = losses(base, tokenizer, records, None)
    tuned = losses(base, tokenizer, records, tmp_path / "b" / "sft")
    expert = losses(base, tokenizer, records, tmp_path / "b" / "expert")
    assert (tuned < plain - 0.05).all()
    assert (expert < plain)[malicious].all()
    # What it has learned of all answers alike (how they end, say) is less than what it has learned of refusals.
    assert (plain - expert)[malicious].mean() > 2 * (plain - expert)[~malicious].mean()


def test_the_budget_is_that_of_both_responders(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    """Two layers of 32 x 32, rank 2·4, for A and B: 2·2·8·32 parameters, and the responders' scaling of 3."""
    train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records, parts=["sft"])
    assert sum(tensor.numel() for tensor in weights(tmp_path / "b" / "sft").values()) == 2 * 2 * 8 * 32
    config = json.loads((tmp_path / "b" / "sft" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 12 / 4
    assert not (tmp_path / "b" / "expert").exists()


def test_the_same_seed_gives_the_same_weights(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        train_baselines(recipe, tmp_path / name, base=base, tokenizer=tokenizer, records=records)
    for part in ("sft", "expert"):
        one, two = weights(tmp_path / "one" / part), weights(tmp_path / "two" / part)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(one[name].abs().max() > 0.005 for name in one if "lora_B" in name)
    assert (tmp_path / "one" / "detector.json").read_bytes() == (tmp_path / "two" / "detector.json").read_bytes()


def test_no_affirmative_of_a_malicious_prompt_is_trained_on(
    recipe: Recipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With other words in their place, every part is the very same, and so is finished already."""
    train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records)
    unused = {"benign": "reject", "malicious": "affirm"}
    others = [record.model_copy(update={unused[record.label]: "Something else altogether."}) for record in records]
    with caplog.at_level("INFO", "mogu"):
        train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=others)
    assert caplog.messages == [f"The baselines' {part} is trained already." for part in ("sft", "expert", "detector")]


def test_a_part_that_is_gone_is_trained_again(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    record = train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records, parts=["detector"])
    before = (tmp_path / "b" / "detector.json").read_bytes()
    assert record["detector"]["layer"] in (1, 2)
    (tmp_path / "b" / "detector.json").unlink()
    train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records, parts=["detector"])
    assert (tmp_path / "b" / "detector.json").read_bytes() == before


def test_other_data_or_settings_are_no_mixture(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    common: dict[str, Any] = {"base": base, "tokenizer": tokenizer, "parts": ["expert"]}
    train_baselines(recipe, tmp_path / "b", records=records, **common)
    with pytest.raises(ConfigError, match="another folder for the baselines"):
        train_baselines(recipe, tmp_path / "b", records=records[:-1], **common)
    with pytest.raises(ConfigError, match="other settings"):
        train_baselines(recipe, tmp_path / "b", records=records, learning_rates={"expert": 1e-4}, **common)


def test_a_part_that_was_stopped_goes_on_to_the_same_weights(
    recipe: Recipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts: list[Part] = ["sft"]
    common: dict[str, Any] = {"base": base, "tokenizer": tokenizer, "records": records, "parts": parts}
    train_baselines(recipe, tmp_path / "whole", **common)
    seen = 0

    def stop_late(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen > 9:
            raise KeyboardInterrupt
        return answer_losses(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("mogu.training.baselines.answer_losses", stop_late)
        with pytest.raises(KeyboardInterrupt):
            train_baselines(recipe, tmp_path / "stopped", **common)
    assert last_checkpoint(tmp_path / "stopped" / "training" / "sft") is not None
    assert not (tmp_path / "stopped" / "sft").exists()
    with pytest.raises(ConfigError, match="resume=True"):
        train_baselines(recipe, tmp_path / "stopped", **common)
    train_baselines(recipe, tmp_path / "stopped", resume=True, **common)
    one, two = weights(tmp_path / "whole" / "sft"), weights(tmp_path / "stopped" / "sft")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_somebody_elses_folder_is_left_alone(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    (tmp_path / "b" / "sft").mkdir(parents=True)
    (tmp_path / "b" / "sft" / "notes.txt").write_text("mine")
    with pytest.raises(MoguError, match="not written by mogu"):
        train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records)
    assert (tmp_path / "b" / "sft" / "notes.txt").read_text() == "mine"


def test_one_label_is_not_enough(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="only the label malicious"):
        train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records[12:])


def test_the_detector_is_scikit_learns_regression(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    """Fitted anew here on states read one prompt at a time, its probabilities are those that the saved weights give."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    about = train_baselines(recipe, tmp_path, base=base, tokenizer=tokenizer, records=records, parts=["detector"])["detector"]
    detector = Detector.load(tmp_path / "detector.json")
    prompts = [list(example.prompt) for example in router_examples(tokenizer, records, max_length=128)]
    with torch.no_grad():
        states = [base(torch.tensor([prompt]), output_hidden_states=True).hidden_states[detector.layer][0, -1] for prompt in prompts]
    scaler = StandardScaler()
    x = scaler.fit_transform(torch.stack(states).double().numpy())
    labels = [record.label == "malicious" for record in records]
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(x, labels).predict_proba(x)[:, 1]
    assert detector.scores(base, prompts, 0) == pytest.approx(expected.tolist(), abs=1e-3)
    assert (about["folds"], about["benign"], about["malicious"]) == (5, 12, 12)
    assert about["accuracy"] > 0.8  # the two kinds of prompts begin with other words


def test_the_head_on_minilm_depends_on_what_users_say_and_on_nothing_else(
    recipe: Recipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    minilm: MiniLM,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    common: dict[str, Any] = {"base": base, "tokenizer": tokenizer, "parts": ["minilm"]}
    about = train_baselines(recipe, tmp_path / "b", records=records, **common)["minilm"]
    assert (about["folds"], about["benign"], about["malicious"]) == (5, 12, 12)
    scores = MinilmDetector.load(tmp_path / "b" / "minilm.json").scores(minilm, [str(record.instruction) for record in records])
    assert [score >= 0.5 for score in scores] == [record.label == "malicious" for record in records]
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": "another", "system_prompt": "Be kind."})})
    answered = [record.model_copy(update={"affirm": "Something else.", "reject": "No."}) for record in records]
    with caplog.at_level("INFO", "mogu"):
        train_baselines(other, tmp_path / "b", records=answered, **common)
    assert caplog.messages == ["The baselines' minilm is trained already."]
    with pytest.raises(ConfigError, match="another folder for the baselines"):
        train_baselines(recipe, tmp_path / "b", records=records[1:], **common)


def test_what_has_to_be_fetched_is_trained_first(
    recipe: Recipe,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime.*not installed"):
        train_baselines(recipe, tmp_path / "b", base=base, tokenizer=tokenizer, records=records, parts=["detector", "minilm"])
    assert not (tmp_path / "b" / "detector.json").exists()


def test_beside_a_gate_the_detector_learns_from_all_that_the_gate_learns_from(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[Record], tmp_path: Path
) -> None:
    tree = recipe.model_dump(mode="json", include={"model", "data", "run"})
    gated = recipe_from({**tree, "method": "gated", "careful": {"learning_rate": 5e-3, "epochs": 1}}, source="of a test")
    counts = {}
    for name, made_of in (("routed", recipe), ("gated", gated)):
        train_baselines(made_of, tmp_path / name, base=base, tokenizer=tokenizer, records=records, parts=["detector"])
        about = json.loads((tmp_path / name / "detector.json").read_text())
        counts[name] = (about["benign"], about["malicious"])
    of_a_label = len(records) // 2
    assert counts["routed"] == (of_a_label, of_a_label)
    benign, malicious = counts["gated"]
    # Each malicious one comes bare and in another form, and some beside another request; of the benign ones, some in each of these.
    assert 2 * of_a_label < malicious < 3 * of_a_label
    assert of_a_label < benign < malicious
