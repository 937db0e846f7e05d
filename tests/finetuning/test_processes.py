"""Fine-tuning in two processes comes to what one comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mogu.finetuning import finetune
from mogu.finetuning.recipe import FinetuneRecipe
from tests.launched import torchrun_mogu


def test_two_processes_tune_what_one_tunes(tree: dict[str, Any], record_files: tuple[Path, Path], tmp_path: Path) -> None:
    """6 conversations in steps of 4 and 2, for 10 epochs: 20 steps."""
    tree["tune"] |= {"epochs": 10, "batch_size": 4}
    tree["safety"] |= {"method": "none", "pairs": str(record_files[0])}
    finetune(FinetuneRecipe(**tree))
    sections = ([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())] for section, values in tree.items())
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("\n".join(line for section in sections for line in section) + "\n")
    commands = (["finetune", str(recipe), "--output", str(tmp_path / name)] for name in ("two", "parts"))
    run = torchrun_mogu(*commands, sharded=[False, True])
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Model:") == 2
    rows = [[json.loads(line) for line in (tmp_path / name / "loss_history.jsonl").read_text().splitlines()] for name in ("out", "two")]
    assert [len(of_run) for of_run in rows] == [20, 20]
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], abs=1e-5)
    assert (tmp_path / "parts" / "loss_history.jsonl").read_bytes() == (tmp_path / "two" / "loss_history.jsonl").read_bytes()
    one, two, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "two", "parts"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
        assert torch.equal(parts[name], two[name])
    reports = [json.loads((tmp_path / name / "finetune_report.json").read_text()) for name in ("out", "two")]
    for which in ("before", "after"):
        assert reports[1][which] == pytest.approx(reports[0][which], abs=1e-4)
