"""The target model: what defenses leave unchanged, and clear errors for trained parts that are missing, broken or foreign."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import Conversation, encode_prompt
from mogu.inference.replies import ReplySettings
from mogu.lab import build_base
from mogu.modeling.prompt_contract import record_prompt

BASELINES = ["none", "sft", "detect_inp", "self_reminder", "self_examine", "retokenization", "icd", "safe_decoding"]


@pytest.mark.parametrize("name", BASELINES)
def test_a_defense_leaves_the_base_model_unchanged(name: str, lab_target: TargetModel, conversations: list[Conversation]) -> None:
    untouched = TargetModel.load(str(build_base(progress=False)))
    make_defense(name, lab_target).reply(conversations[:2], ReplySettings(24))
    assert [module for module, _ in lab_target.base.named_modules()] == [module for module, _ in untouched.base.named_modules()]
    assert all(torch.equal(after, before) for after, before in zip(lab_target.base.parameters(), untouched.base.parameters(), strict=True))


def test_a_saved_model_is_loaded_with_the_prompt_of_its_training(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = make_base("llama", torch.float32)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = MoguModel.from_base(base, MoguConfig(base_model=str(tmp_path / "base")))
    record_prompt(model.mogu_config, tokenizer, "be kind")
    model.save_pretrained(tmp_path / "saved")
    question = {"role": "user", "content": "tell me"}
    for options, system in (({}, "be kind"), ({"system_prompt": "be short"}, "be short")):
        target = TargetModel.load(tmp_path / "saved", **options)
        expected = encode_prompt(tokenizer, [{"role": "system", "content": system}, question])
        assert target.encode([question]) == expected
        own = [{"role": "system", "content": "be honest"}, question]
        assert target.encode(own) == encode_prompt(tokenizer, own)


@pytest.mark.parametrize(("name", "part"), [("sft", "sft"), ("safe_decoding", "expert"), ("detect_inp", "detector.json")])
def test_a_missing_part_is_named(name: str, part: str, lab_target: TargetModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{part} is missing: no folder.*mogu compare"):
        make_defense(name, TargetModel(lab_target.base, lab_target.tokenizer))
    with pytest.raises(ConfigError, match=rf"{part} is missing from {tmp_path}.*mogu compare"):
        make_defense(name, TargetModel(lab_target.base, lab_target.tokenizer, baselines=tmp_path))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("adapter_model.safetensors", None, "xx"),
        ("adapter_config.json", None, "{"),
        ("adapter_config.json", "o_proj", "elsewhere"),
        ("adapter_config.json", '"r": 4', '"r": 2'),
    ],
)
def test_a_broken_or_foreign_adapter_is_refused(file: str, old: str | None, new: str, random_target: TargetModel, tmp_path: Path) -> None:
    assert random_target.baselines is not None
    shutil.copytree(random_target.baselines / "sft", tmp_path / "sft")
    path = tmp_path / "sft" / file
    path.write_text(new if old is None else path.read_text().replace(old, new))
    with pytest.raises(ModelFileError, match="does not load into the base model"):
        make_defense("sft", TargetModel(random_target.base, random_target.tokenizer, baselines=tmp_path))
