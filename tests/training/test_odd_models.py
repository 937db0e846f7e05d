"""Models and tokenizers of unusual make, from the dry run to a reply: what was checked holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from mogu.errors import DataError, ModelFileError
from mogu.inference.replies import ReplySettings, replies
from mogu.modeling.checkpoint import Checkpoint
from mogu.modeling.loading import load_model
from mogu.training import Recipe, harden, plan, recipe_from
from tests.odd_models import KINDS, Kind, refusing, save

pytestmark = pytest.mark.core


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
    name: str, method: str, record_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mogu.training.gated.fit._STEPS", 30)  # what the gate hears is of no interest here
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
