"""A saved model carries its prompt and knows its base again; formats 1 and 2 still load."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import render_prompt
from mogu.modeling.checkpoint import Checkpoint, read_config, write_config
from mogu.modeling.loading import load_model
from mogu.modeling.prompt_contract import record_prompt, with_system_prompt

IDS = torch.tensor([[5, 9, 33, 12, 60, 7]])
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SYSTEM = 'You are "careful" and say {{ nothing }}.\n{% Not this % } either — ever. 🙂 \\n'


def logits(model: MoguModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def saved(make_pair, make_base, tokenizer, tmp_path: Path) -> Path:
    """A saved model on a base in a folder, whose tokenizer has no chat template; trained with a template and a system prompt."""
    base = tmp_path / "base"
    make_base("llama", torch.float32).save_pretrained(base)
    tokenizer.save_pretrained(base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    model, _ = make_pair("llama", torch.float32)
    trained = AutoTokenizer.from_pretrained(base)
    assert not trained.chat_template
    trained.chat_template = TEMPLATE
    record_prompt(model.mogu_config, trained, SYSTEM)
    model.mogu_config.base_model = str(base)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_it_comes_with_template_and_system_prompt(saved):
    loaded = load_model(saved)
    conversation = [{"role": "user", "content": "hello"}]
    expected = f"<system>{SYSTEM}<user>hello<assistant>"
    assert render_prompt(loaded.tokenizer, conversation) == expected
    assert loaded.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == expected
    own = [{"role": "system", "content": "Be brief."}, *conversation]
    assert render_prompt(loaded.tokenizer, own) == "<system>Be brief.<user>hello<assistant>"
    assert read_config(saved).system_prompt == SYSTEM
    # Python's way to load it renders the same prompts, and so does a plain tokenizer with the file of the saved model.
    assert render_prompt(MoguModel.from_pretrained(saved).tokenizer, conversation) == expected
    plain = AutoTokenizer.from_pretrained(json.loads((saved / "mogu_config.json").read_text())["base_model"])
    plain.chat_template = (saved / "chat_template.jinja").read_text(encoding="utf-8")
    assert plain.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == expected


def test_a_copied_folder_asks_the_same(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copied")
    assert load_model(tmp_path / "copied").tokenizer.chat_template == load_model(saved).tokenizer.chat_template


def test_another_template_is_named_in_a_warning(saved, tmp_path, caplog):
    other = tmp_path / "other.jinja"
    other.write_text(TEMPLATE.replace("<", "["), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        loaded = load_model(saved, chat_template=other)
    assert render_prompt(loaded.tokenizer, "hello") == f"[system>{SYSTEM}[user>hello[assistant>"
    assert str(other) in caplog.text
    assert str(read_config(saved).chat_template_sha256)[:12] in caplog.text
    caplog.clear()
    same = tmp_path / "same.jinja"
    same.write_text(TEMPLATE, encoding="utf-8")
    load_model(saved, chat_template=same)
    assert not caplog.records


def test_another_system_prompt_is_named_in_a_warning(saved, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load_model(saved, system_prompt="Be brief.")
    assert render_prompt(loaded.tokenizer, "hello") == "<system>Be brief.<user>hello<assistant>"
    assert "Be brief." in caplog.text


def test_a_template_that_was_changed_is_refused(saved):
    file = saved / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8") + "Sure,", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the chat template that the model was trained with"):
        load_model(saved)
    file.unlink()
    with pytest.raises(ModelFileError, match=r"holds no chat_template\.jinja"):
        load_model(saved)


def test_a_tokenizer_with_another_vocabulary_is_refused(saved):
    base = Path(json.loads((saved / "mogu_config.json").read_text())["base_model"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(base)
    with pytest.raises(ModelFileError, match="another vocabulary"):
        load_model(saved)


@pytest.mark.parametrize("version", [1, 2])
def test_earlier_formats_load_with_the_system_prompt_of_their_report(saved, version):
    """As releases before format 3 wrote them: no template, no numbers of the base, the system prompt in the training's report alone."""
    expected = logits(MoguModel.from_pretrained(saved))
    config = json.loads((saved / "mogu_config.json").read_text())
    old = {
        name: value for name, value in config.items() if name not in ("system_prompt", "tokenizer_sha256", "chat_template_sha256", "files")
    }
    if version == 1:
        old = {name: value for name, value in old.items() if name not in ("backbone", "answer_marker")}
    old |= {"format_version": version, "routed_tokens": None}
    (saved / "mogu_config.json").write_text(json.dumps(old))
    (saved / "chat_template.jinja").unlink()
    (saved / "base_identity.safetensors").unlink()
    (saved / "training_report.json").write_text(json.dumps({"recipe": {"model": {"system_prompt": SYSTEM}}}))
    base = Path(old["base_model"])
    (base / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    loaded = load_model(saved)
    assert loaded.mogu.mogu_config.routed_tokens == "all"
    assert torch.equal(logits(loaded.mogu), expected)
    assert render_prompt(loaded.tokenizer, "hello") == f"<system>{SYSTEM}<user>hello<assistant>"


@pytest.mark.parametrize("saved_again", ["model", "config"])
def test_an_earlier_format_can_be_saved_and_loaded_again(saved, saved_again, tmp_path):
    """Formats 1 and 2 kept the fingerprint of the tokenizer's template, not its text; a copy in today's format has neither."""
    config = json.loads((saved / "mogu_config.json").read_text())
    (saved / "chat_template.jinja").unlink()
    (saved / "mogu_config.json").write_text(json.dumps(config | {"format_version": 2, "system_prompt": None, "files": None}))
    (saved / "training_report.json").write_text(json.dumps({"recipe": {"model": {"system_prompt": SYSTEM}}}))
    (Path(config["base_model"]) / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    if saved_again == "model":
        again = tmp_path / "again"
        checkpoint = Checkpoint.read(saved)
        again.mkdir()
        checkpoint.write(again)
    else:
        again = saved
        write_config(again, read_config(again))
    assert json.loads((again / "mogu_config.json").read_text())["format_version"] == 5
    assert render_prompt(load_model(again).tokenizer, "hello") == f"<system>{SYSTEM}<user>hello<assistant>"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_base_in_any_type_is_known_again(saved, dtype, caplog):
    with caplog.at_level(logging.WARNING):
        MoguModel.from_pretrained(saved, dtype=dtype, strict_base=True)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_with_other_weights_gets_one_warning_or_an_error(saved, make_base, dtype, caplog):
    """One matrix fine-tuned by a thousandth, as a merged adapter would leave it."""
    base = make_base("llama", dtype)
    with torch.no_grad():
        base.model.layers[1].self_attn.q_proj.weight += 0.02 * torch.randn_like(base.model.layers[1].self_attn.q_proj.weight)
    with caplog.at_level(logging.WARNING):
        MoguModel.from_pretrained(saved, base_model=base).detach()
    assert len(caplog.records) == 1
    assert "other weights" in caplog.text
    assert "model.layers.1.self_attn.q_proj.weight" in caplog.text
    with pytest.raises(ModelFileError, match="other weights"):
        MoguModel.from_pretrained(saved, base_model=base, strict_base=True)
    assert not [name for name, _ in base.named_modules() if "base_layer" in name]


def test_what_is_read_is_what_was_written(saved, tmp_path):
    checkpoint = Checkpoint.read(saved)
    (tmp_path / "again").mkdir()
    checkpoint.write(tmp_path / "again")
    files = sorted(file.relative_to(saved) for file in saved.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*") if file.is_file())
    for file in files:
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_system_prompt_is_put_before_a_conversation_that_has_none_only():
    assert with_system_prompt(TEMPLATE, None) == TEMPLATE
    assert MoguConfig().system_prompt is None
