"""A chat template that writes today's date: a run that goes on after midnight goes on with the prompts it began with."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as library
from safetensors.torch import load_file

from mogu.modeling.loading import load_model
from mogu.training import Recipe, harden, recipe_from

pytestmark = pytest.mark.core

DATED = (
    "<|system|> Today is {{ strftime_now('%d %b %Y') }}\n"
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Tomorrow(datetime.datetime):
    """The clock that transformers hands to templates, a day ahead."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.now(tz) + datetime.timedelta(days=1)


def recipe(base_folder: Path, record_files: tuple[Path, Path], folder: Path) -> Recipe:
    template = folder / "dated.jinja"
    template.parent.mkdir(parents=True, exist_ok=True)
    template.write_text(DATED, encoding="utf-8")
    sections = {
        "method": "v1",
        "model": {"base": str(base_folder), "chat_template": str(template)},
        "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
        "mogu": {"router_hidden": 16},
        "glad": {"epochs": 1, "learning_rate": 1e-3},
        "unwill": {"epochs": 1},
        "router": {"epochs": 1, "learning_rate": 1e-3},
        "choice": {"max_new_tokens": 2, "checkpoints": [1.0], "weight_penalties": [2.0]},
        "run": {"output": str(folder / "out"), "max_length": 128},
    }
    return recipe_from(sections, source="test")


def test_training_goes_on_after_midnight(base_folder, record_files, tmp_path, monkeypatch) -> None:
    harden(recipe(base_folder, record_files, tmp_path / "one day"))
    two_days = recipe(base_folder, record_files, tmp_path / "two days")
    harden(two_days, stage="glad")
    harden(two_days, stage="unwill")
    monkeypatch.setattr(library, "datetime", Tomorrow)
    harden(two_days, resume=True)
    for file in ("router.safetensors", "glad/adapter_model.safetensors", "unwill/adapter_model.safetensors"):
        expected = load_file(tmp_path / "one day" / "out" / file)
        found = load_file(tmp_path / "two days" / "out" / file)
        assert all(tensor.equal(expected[name]) for name, tensor in found.items())


def test_the_saved_model_writes_the_date_of_the_day_it_is_asked(base_folder, record_files, tmp_path, monkeypatch) -> None:
    harden(recipe(base_folder, record_files, tmp_path))
    monkeypatch.setattr(library, "datetime", Tomorrow)
    tokenizer = load_model(tmp_path / "out").tokenizer
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True)
    assert prompt == f"<|system|> Today is {Tomorrow.now():%d %b %Y}\n<|user|> hello<|assistant|>"
