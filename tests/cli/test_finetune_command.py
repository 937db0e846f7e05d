"""`mogu finetune` as a person meets it: what it prints, and how it ends when something is wrong."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mogu.data import Record, write_records

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Path:
    rows = [[{"role": "user", "content": f"Add {n}."}, {"role": "assistant", "content": "Done."}] for n in range(20)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", affirm="Sure.", reject="I'm sorry, but no.")
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    write_records(tmp_path / "pairs.jsonl", records)
    (tmp_path / "config.toml").write_text(
        f"""
[model]
base = {json.dumps(str(base))}
[data]
train = {json.dumps(str(tmp_path / "chats.jsonl"))}
[tune]
epochs = 1
[safety]
max_new_tokens = 3
[run]
output = {json.dumps(str(tmp_path / "out"))}
max_length = 96
"""
    )
    return tmp_path / "config.toml"


@pytest.fixture
def mogu(run_mogu: Mogu) -> Mogu:
    """Run ``mogu finetune``; see :func:`run_mogu`."""
    return functools.partial(run_mogu, "finetune")


def test_a_run_ends_with_before_and_after_in_one_table(config: Path, base: Path, mogu: Mogu, tmp_path: Path) -> None:
    command = (config, "--safety", "data-mix", "--pairs", tmp_path / "pairs.jsonl", "--shares", "0,0.2")
    code, out, err = mogu(*command)
    assert code == 0
    for words in ("task loss", "task exact match", "direct attack success", "jailbroken attack success", "benign refusals", "after"):
        assert words in out
    assert "data-mix" in err
    report = json.loads((tmp_path / "out" / "finetune_report.json").read_text())
    assert report["conversations"] == {"train": 18, "dev": 2}
    assert [row["share"] for row in report["tried"]] == [0, 0.2]
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out").peft_config["default"].r == 16
    code, out, err = mogu(*command, "--json")
    assert code == 0
    assert json.loads(out) == report
    assert "Tuned already: plain." in err


def test_a_dry_run_counts_and_writes_nothing(config: Path, mogu: Mogu, tmp_path: Path) -> None:
    command = (config, "--safety", "data-mix", "--pairs", tmp_path / "pairs.jsonl", "--shares", "0.1", "--dry-run")
    code, out, _ = mogu(*command, "--json")
    assert code == 0
    plan = json.loads(out)
    # 18 conversations and 2 pairs are 20 examples, in steps of 16
    assert plan["strategies"] == [{"name": "data-mix, share 0.1", "examples": 18, "pairs": 2, "steps": 2}]
    # seven linear layers, q, k, v, o, gate, up and down, all 16 x 16: two matrices of rank 16 for each
    assert plan["trained_parameters"] == 7 * 2 * 16 * 16
    assert (plan["conversations"], plan["held_out"], plan["dropped"]) == (18, 2, 0)
    code, out, _ = mogu(*command)
    assert code == 0
    assert "nothing was trained or written" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl", "config.toml", "pairs.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resume", "--restart"), "Both --resume and --restart"),
        (("--safety", "data-mix"), "'data-mix' needs pairs"),
        (("--shares", "2"), "safety.shares"),
        (("--set", "data.train=no-such.jsonl"), "There is no file no-such.jsonl"),
        (("--set", "run.max_length=16"), "longer than 16 tokens"),
        (("--set", "tune.steps=3"), "docs/reference/recipes.md"),
    ],
)
def test_bad_input_ends_with_one_error(arguments: tuple[str, ...], words: str, config: Path, mogu: Mogu, tmp_path: Path) -> None:
    code, out, err = mogu(config, *arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_the_recipe_that_comes_along_can_be_used(base: Path, mogu: Mogu, tmp_path: Path, config: Path) -> None:
    settings = {"model.base": base, "data.train": tmp_path / "chats.jsonl", "safety.pairs": tmp_path / "pairs.jsonl"}
    given = [part for key, path in settings.items() for part in ("--set", f"{key}={json.dumps(str(path))}")]
    code, out, _ = mogu("finetuning/qwen2.5-7b-instruct", *given, "--dry-run", "--json")
    assert code == 0
    assert [strategy["name"] for strategy in json.loads(out)["strategies"]] == [
        "plain",
        *(f"data-mix, share {share}" for share in ("0.05", "0.1", "0.2")),
    ]
