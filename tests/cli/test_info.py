"""`mogu info` on a tiny saved model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

RunMogu = Callable[..., tuple[int, str, str]]


def test_info_shows_the_facts_without_loading_the_base_model(saved_model: Path, run_mogu: RunMogu, tmp_path: Path) -> None:
    copy = tmp_path / "saved"
    shutil.copytree(saved_model, copy)
    config = json.loads((copy / "mogu_config.json").read_text())
    (copy / "mogu_config.json").write_text(json.dumps(config | {"base_model": "./nowhere"}))
    code, out, err = run_mogu("info", copy, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["base_model"] == "./nowhere"
    assert facts["routed_layers"] == 2
    # 2 responders of rank 2 and 2 folded routers in each of 2 layers of width 32
    assert facts["added_parameters"] == 2 * (2 * (2 * 32 + 32 * 2) + 2 * (32 + 1))
    assert facts["base_shape"] == {"model_type": "llama", "layers": 2, "width": 32}


def test_the_table_shows_the_same_facts(saved_model: Path, run_mogu: RunMogu) -> None:
    code, out, err = run_mogu("info", saved_model)
    assert code == 0, err
    assert "added parameters" in out
    assert str(2 * (2 * (2 * 32 + 32 * 2) + 2 * (32 + 1))) in out
