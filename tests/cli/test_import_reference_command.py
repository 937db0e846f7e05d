"""`mogu import-reference` on the reference vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mogu import MoguModel

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "reference-vectors" / "llama"
RunMogu = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="the reference vectors (../shared) are not here")


def test_the_imported_model_has_the_published_logits(run_mogu: RunMogu, tmp_path: Path) -> None:
    out = tmp_path / "imported"
    parts = {"--base": "base", "--unwill": "resp_unwill", "--glad": "resp_glad", "--router": "router_layer/5920_router.pth"}
    arguments = [argument for option, path in parts.items() for argument in (option, VECTORS / path)]
    code, _, err = run_mogu("import-reference", *arguments, "--out", out)
    assert code == 0, err
    expected = load_file(VECTORS / "expected.safetensors")
    model = MoguModel.from_pretrained(out).eval()
    with torch.no_grad():
        logits = model(input_ids=expected["prompt1.input_ids"]).logits
    assert torch.allclose(logits, expected["prompt1.mogu_logits"], atol=1e-4)


def test_a_folder_that_mogu_did_not_write_is_left_alone(run_mogu: RunMogu, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    code, _, err = run_mogu(
        "import-reference", "--base", VECTORS / "base", "--unwill", "u", "--glad", "g", "--router", "r", "--out", tmp_path
    )
    assert code == 2
    assert "was not written by mogu" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
