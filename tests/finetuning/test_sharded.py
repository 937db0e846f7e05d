"""What a run refuses whose processes each hold a part of the base model, and what it plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mogu.errors import ConfigError
from mogu.finetuning import FinetuneRecipe, plan_tuning
from mogu.finetuning.sharded import check_sharded
from tests.launched import plan_as_one_of


@pytest.mark.parametrize(
    ("tune", "safety", "why"),
    [
        ({"method": "full"}, {}, "tunes all weights"),
        ({}, {"method": "safe-lora", "unaligned": "another"}, "compares the weights"),
        ({}, {"method": "swat"}, "by changing weights"),
    ],
)
def test_what_needs_the_whole_base_model_is_refused(
    tune: dict[str, Any],
    safety: dict[str, Any],
    why: str,
    tree: dict[str, Any],
    record_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree["tune"] |= tune
    tree["safety"] |= {"pairs": str(record_files[0])} | safety
    plan_as_one_of(2, monkeypatch)
    with pytest.raises(ConfigError, match=f"{why}.*each process holds a part"):
        plan_tuning(FinetuneRecipe(**tree))
    assert not list(tmp_path.iterdir())


def test_a_quantized_base_model_is_refused(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tree["model"]["quantization"] = "8bit"
    plan_tuning(FinetuneRecipe(**tree))
    plan_as_one_of(2, monkeypatch)
    with pytest.raises(ConfigError, match="weights in 8bit"):
        plan_tuning(FinetuneRecipe(**tree))


def test_a_hardened_model_is_refused(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = FinetuneRecipe(**tree)
    check_sharded(recipe, hardened=True)
    plan_as_one_of(2, monkeypatch)
    with pytest.raises(ConfigError, match="hardened model"):
        check_sharded(recipe, hardened=True)


@pytest.mark.parametrize("safety", [{"method": "data-mix"}, {"method": "ml-lr", "robust_modules": "robustness.json"}])
def test_what_leaves_its_weights_alone_is_planned(
    safety: dict[str, Any], tree: dict[str, Any], record_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tiny model's two layers, 4 · 32² + 3 · 32 · 64 + 2 · 32 float32 numbers each, half is here, and three are whole at a time."""
    tree["safety"] |= {"pairs": str(record_files[0])} | safety
    tree["run"]["micro_batch_size"] = 1  # passes of several are dealt out among processes
    whole = plan_tuning(FinetuneRecipe(**tree))
    plan_as_one_of(2, monkeypatch)
    parts = plan_tuning(FinetuneRecipe(**tree))
    layer = 4 * 32**2 + 3 * 32 * 64 + 2 * 32
    assert parts.memory_bytes - whole.memory_bytes == 4 * (3 * layer - layer)
    assert parts.trained_parameters == whole.trained_parameters
