"""Who can be asked in a playground: each base once, in memory and among the sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.modeling.gated.model import GatedModel
from mogu.playground.sides import load_sides
from tests.conftest import randomize


@pytest.fixture
def folders(make_base: Callable[..., Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A base model and two models on it."""
    base = make_base()
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    for name, layers in (("first", [1, 2]), ("second", None)):
        model = MoguModel.from_base(base, MoguConfig(base_model=str(tmp_path / "base"), rank=2, lora_alpha=4, layers=layers))
        randomize(model)
        model.save_pretrained(tmp_path / name)
        base = model.detach()
    return tmp_path


def test_models_of_one_base_share_its_weights(folders: Path) -> None:
    sides = load_sides([str(folders / "first"), str(folders / "second")], defenses=["self_reminder"])
    assert [(side.name, side.kind) for side in sides] == [
        ("base", "plain"),
        ("first", "hardened"),
        ("second", "hardened"),
        ("Self-reminder", "defense"),
    ]
    assert sides[0].model is sides[1].model
    embeddings = {side.model.get_input_embeddings().weight.data_ptr() for side in sides}
    assert len(embeddings) == 1
    assert sides[2].model.routed_layer_indices == [0, 1, 2]


def test_a_base_model_alone_is_a_side(folders: Path) -> None:
    (side,) = load_sides([str(folders / "base")])
    assert (side.name, side.kind, side.hardened, side.folder) == ("base", "plain", None, None)


def test_a_plain_side_whose_name_is_taken_is_called_after_its_model(folders: Path) -> None:
    names = [side.name for side in load_sides([str(folders / "base"), str(folders / "first")])]
    assert names == ["base", "first, plain", "first"]


def test_a_model_is_named_once(folders: Path) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        load_sides([str(folders / "first"), str(folders / "first")])
    with pytest.raises(ConfigError, match="no defense 'magic'"):
        load_sides([str(folders / "first")], defenses=["magic"])


def test_a_model_that_listens_shares_no_batch(sides: Any, gated: GatedModel) -> None:
    assert not sides[1].streams_alone
    gated.gate_config = gated.gate_config.model_copy(update={"listen": 0.9})
    assert sides[0].streams_alone
    assert sides[1].streams_alone
