"""Models and tokenizers of unusual make, from the dry run to a reply: what was checked holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mogu.errors import DataError, ModelFileError
from mogu.inference.replies import ReplySettings, replies
from mogu.modeling.checkpoint import Checkpoint
from mogu.modeling.loading import load_model
from mogu.training import Recipe, harden, plan, recipe_from
from tests.conftest import FAMILIES
from tests.training.conftest import make_tokenizer

pytestmark = pytest.mark.core


def chatml(content: str = "{{ m.content }}", header: str = "{% if add_generation_prompt %}<|assistant|>{% endif %}") -> str:
    return "{% for m in messages %}<|{{ m.role }}|>" + content + "<|end|>\n{% endfor %}" + header


def refusing(word: str) -> str:
    """A template that refuses messages with a word in them."""
    return chatml("{% if '" + word + "' in m.content %}{{ raise_exception('never heard of it') }}{% endif %}{{ m.content }}")


@dataclass(frozen=True)
class Kind:
    """What is unusual about a model folder.

    Args:
        family: of the model, one of the tiny ones.
        template: its chat template.
        added: tokens that the tokenizer has and the embedding has no rows of.
        pad: the tokenizer's padding token.
        config: fields that are written into its ``config.json``.
        routed: the layers that are routed, each with the width of its projection.
        note: what the dry run says of it.
    """

    family: str = "llama"
    template: str = field(default_factory=chatml)
    added: tuple[str, ...] = ()
    pad: str = "<pad>"
    config: dict[str, Any] = field(default_factory=dict)
    routed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(3), 32))
    note: str = ""


KINDS = {
    "two widths, Gemma 4": Kind("gemma4_text", routed={0: 32, 1: 64, 2: 32, 3: 64}),
    "two widths, Laguna": Kind("laguna", routed={0: 32, 1: 64, 2: 32}),
    "attention in some layers, LFM2": Kind("lfm2", routed={1: 32, 2: 32}, note="only those with attention can be routed: 1, 2"),
    "attention in some layers, Qwen 3.5": Kind("qwen3_5_text", routed={1: 32, 2: 32}, note="only those with attention can be routed: 1, 2"),
    "a padding token beyond the embedding": Kind(added=("[PAD]",), pad="[PAD]", note="'</s>' (2) pads instead"),
    "more tokens than rows": Kind(added=("<extra1>", "<extra2>")),
    "no cache": Kind(config={"use_cache": False}),
    "ends no turn": Kind(
        template="{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    ),
    "ends every turn but the last": Kind(
        template="{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not loop.last %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|end|><|assistant|>{% endif %}"
    ),
    "trims": Kind(template=chatml("{{ m.content | trim }}")),
    "writes the header unasked": Kind(template=chatml(header="<|assistant|>")),
    "today's date": Kind(template="<|system|>{{ strftime_now('%d %b %Y') }}<|end|>\n" + chatml()),
}


def save(kind: Kind, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]})
    model_type, settings = FAMILIES[kind.family]
    rows = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "eos_token_id": 2}
    if "vocab_size_per_layer_input" in settings:
        rows["vocab_size_per_layer_input"] = len(tokenizer)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings | rows)).save_pretrained(folder)
    tokenizer.add_tokens(list(kind.added))
    tokenizer.pad_token = kind.pad
    tokenizer.chat_template = kind.template
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | kind.config))
    if kind.config:
        (folder / "generation_config.json").unlink()
    return tokenizer


def recipe(base: Path, output: Path, method: str, records: tuple[Path, Path], **sections: dict[str, Any]) -> Recipe:
    stage = {"epochs": 1, "batch_size": 8}
    own: dict[str, dict[str, Any]] = {
        "v1": {"glad": stage, "router": stage, "mogu": {"router_hidden": 6}},
        "v2": {"glad": stage, "router": stage, "probe": {"top": [2], "folds": 2}},
        "gated": {"gate": {"heads": 1, "members": 1, "false_alarms": [0.5], "listen": 0.5}},
    }[method]
    choice = {"max_new_tokens": 3} | ({} if method == "gated" else {"checkpoints": [1.0], "weight_penalties": [2.0]})
    common = {"method": method, "model": {"base": str(base)}, "data": {"train": str(records[0]), "dev": str(records[1])}}
    run = {"output": str(output), "max_length": 160}
    return recipe_from({**common, "unwill": stage, "choice": choice, "run": run, **own, **sections}, source="test")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["v1", "v2", "gated"])
def test_what_the_dry_run_accepts_is_trained_saved_loaded_and_replies(
    name: str, method: str, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    if method == "v2":
        pytest.importorskip("sklearn")
    kind = KINDS[name]
    save(kind, tmp_path / "base")
    this = recipe(tmp_path / "base", tmp_path / "out", method, record_files)
    planned = plan(this)
    assert kind.note in " ".join(planned.notes)
    harden(this)
    checkpoint = Checkpoint.read(tmp_path / "out")
    widths = {int(module.split(".")[2]): lora_a.shape[1] for module, (lora_a, _) in checkpoint.responders["unwill"].weights.items()}
    assert widths.items() <= kind.routed.items()
    assert method == "v2" or widths == kind.routed
    if method == "gated":
        assert checkpoint.gate is not None
        assert set(checkpoint.gate.vectors) <= set(range(len(kind.routed) + 1))
    else:
        assert {layer: vectors.shape[1] for layer, (vectors, _) in checkpoint.routers.items()} == widths
    loaded = load_model(tmp_path / "out")
    model: Any = loaded.model
    prompts = ["How do I clean the kettle?", "How do I take my neighbor's very old garden bench away?", "Hello"]
    settings = ReplySettings(max_new_tokens=4)
    found = replies(model, loaded.tokenizer, prompts, settings)
    assert found == [replies(model, loaded.tokenizer, [prompt], settings)[0] for prompt in prompts]
    assert model.score(prompts).tolist() == pytest.approx([float(model.score(prompt)) for prompt in prompts], abs=1e-4)
    with model.routing("off"):
        plain = replies(model, loaded.tokenizer, prompts, settings)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert plain == replies(base, loaded.tokenizer, prompts, settings)


def test_a_token_that_the_model_has_no_embedding_of_is_named_with_its_record(record_files: tuple[Path, Path], tmp_path: Path) -> None:
    save(Kind(added=("<extra>", "garden")), tmp_path / "base")
    for method in ("v1", "gated"):
        for work in (plan, harden):
            with pytest.raises(ModelFileError, match=r"record 'm?b?1' has the token 'garden' \(\d+\).*resize"):
                work(recipe(tmp_path / "base", tmp_path / "out", method, record_files))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["v1", "gated"])
@pytest.mark.parametrize(
    ("word", "line"), [("bucket", r"dev\.jsonl, line 1: The record 'b8'"), ("window", r"pairs\.jsonl, line 3: The record 'b2'")]
)
def test_a_template_that_refuses_a_record_is_an_error_that_names_its_line(
    word: str, line: str, method: str, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """The bucket is in the first line of the dev file, the window in the third of the training file."""
    save(Kind(template=refusing(word)), tmp_path / "base")
    for work in (plan, harden):
        with pytest.raises(DataError, match=rf"{line} .*never heard of it"):
            work(recipe(tmp_path / "base", tmp_path / "out", method, record_files))
    assert not (tmp_path / "out").exists()
