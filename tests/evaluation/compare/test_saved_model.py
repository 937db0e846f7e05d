"""What baselines of a saved model are trained on: the records that the model itself was trained on."""

from __future__ import annotations

import json
from pathlib import Path

from mogu.data import read_records
from mogu.evaluation.compare import Comparison
from mogu.evaluation.compare.saved_model import SavedModel
from mogu.training import harden, recipe_from
from tests.training.conftest import make_tokenizer, save_chat_model


def test_baselines_of_a_model_of_the_starter_set_learn_from_its_very_records(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    base = save_chat_model(tmp_path / "base")
    stage = {"epochs": 1}
    sections = {
        "method": "v1",
        "model": {"base": str(tmp_path / "base")},
        "data": {"train": "starter", "limit": 5, "max_new_tokens": 8},
        "mogu": {"router_hidden": 16},
        **dict.fromkeys(("glad", "unwill", "router"), stage),
        "choice": {"checkpoints": [1.0], "weight_penalties": [2.0], "max_new_tokens": 2},
        "run": {"output": str(tmp_path / "out"), "max_length": 512},
    }
    harden(recipe_from(sections, source="test"))
    comparison = Comparison((str(tmp_path / "out"),), tmp_path / "report", ("starter",), ("none", "sft"))
    model = SavedModel(str(tmp_path / "out"), comparison, name="mogu", label="MoGU")
    for seed in (0, 1):
        records = model.records(model.recipe(seed), base, tokenizer)
        assert records["train"] == read_records(tmp_path / "out-training" / "starter" / "train.jsonl")
        assert records["dev"] == read_records(tmp_path / "out-training" / "starter" / "dev.jsonl")
    assert json.loads((tmp_path / "report" / "records" / "mogu" / "mogu_training.json").read_text())["what"].startswith(
        "working folder of `mogu compare`"
    )
