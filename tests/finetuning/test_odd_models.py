"""Models and tokenizers of unusual make, from the dry run of fine-tuning to a reply of the tuned model; and rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu.errors import DataError, ModelFileError
from mogu.finetuning import finetune, plan_tuning
from mogu.finetuning.recipe import finetune_recipe_from
from mogu.inference.replies import ReplySettings, replies
from tests.odd_models import KINDS, Kind, refusing, save


def recipe(base: Path, output: Path, chats: Path) -> Any:
    # No dropout: PEFT has none beside the experts of a mixture, which are one tensor.
    tree = {
        "model": {"base": str(base)},
        "data": {"train": str(chats)},
        "tune": {"epochs": 1, "rank": 2, "dropout": 0.0},
        "run": {"output": str(output), "max_length": 160},
    }
    return finetune_recipe_from(tree, source="test")


@pytest.mark.parametrize("name", KINDS)
def test_what_the_dry_run_accepts_is_tuned_saved_loaded_and_replies(name: str, chats_file: Path, tmp_path: Path) -> None:
    save(KINDS[name], tmp_path / "base")
    planned = plan_tuning(recipe(tmp_path / "base", tmp_path / "out", chats_file))
    assert planned.memory_bytes > 20 * planned.trained_parameters
    finetune(recipe(tmp_path / "base", tmp_path / "out", chats_file))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    prompts = ["Where is the kettle?", "Where is the very old garden bench?"]
    assert len(replies(tuned, tokenizer, prompts, ReplySettings(4))) == 2


def test_a_conversation_that_a_template_refuses_is_named_by_its_row(chats_file: Path, tmp_path: Path) -> None:
    save(Kind(template=refusing("ladder")), tmp_path / "base")
    for work in (plan_tuning, finetune):
        with pytest.raises(DataError, match=r"The conversation 'row 5' cannot be encoded: .*never heard of it"):
            work(recipe(tmp_path / "base", tmp_path / "out", chats_file))
    assert not (tmp_path / "out").exists()


def test_a_token_without_an_embedding_is_named_with_its_row(chats_file: Path, tmp_path: Path) -> None:
    save(Kind(added=("window",)), tmp_path / "base")
    for work in (plan_tuning, finetune):
        with pytest.raises(ModelFileError, match=r"The conversation 'row 3' has the token 'window'"):
            work(recipe(tmp_path / "base", tmp_path / "out", chats_file))


def test_fields_of_arrow_that_hold_nothing_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text, "name": None, "tool_calls": None}

    rows = [[turn("user", f"What is {n} plus {n}?"), turn("assistant", f"It is {2 * n}.")] for n in range(12)]
    (tmp_path / "parquet").mkdir()
    nothing = pyarrow.array([None] * 12, pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"messages": rows, "tools": nothing}), tmp_path / "parquet" / "train.parquet")
    plain = tmp_path / "plain.jsonl"
    plain.write_text(
        "".join(json.dumps({"messages": [{key: turn[key] for key in ("role", "content")} for turn in row]}) + "\n" for row in rows)
    )
    save(Kind(), tmp_path / "base")
    assert plan_tuning(recipe(tmp_path / "base", tmp_path / "out", tmp_path / "parquet")) == plan_tuning(
        recipe(tmp_path / "base", tmp_path / "out", plain)
    )
