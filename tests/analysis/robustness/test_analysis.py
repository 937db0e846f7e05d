"""A whole analysis: what it writes, how it resumes after a stop, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import Robustness, analyze_robustness
from mogu.data import Record
from mogu.errors import ConfigError, DataError, MoguError

MakeBase = Callable[..., PreTrainedModel]
MakeRecords = Callable[..., list[Record]]
MakeSettings = Callable[..., Robustness]


@pytest.fixture
def base(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    make_base("llama", torch.float32).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def settings(word_records: list[Record]) -> MakeSettings:
    def make(base: Path, out: Path, **changes: Any) -> Robustness:
        return dataclasses.replace(Robustness(str(base), word_records, out, draws=2), **changes)

    return make


def kept(out: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (out / "measured.jsonl").read_text().splitlines()]


def test_a_stopped_run_resumes_and_measures_nothing_twice(settings: MakeSettings, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("perturbing modules", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_robustness(settings(base, out), progress=stop)
    assert {path.name for path in out.iterdir()} == {".lock", "measured.jsonl"}
    first = kept(out)
    assert len(first) == 10
    with (out / "measured.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # a kill in the middle of a line
    result = analyze_robustness(settings(base, out))
    assert kept(out)[:10] == first
    assert len(set(kept(out))) == len(kept(out))
    assert result == analyze_robustness(settings(base, tmp_path / "whole"))
    assert json.loads((out / "robustness.json").read_text()) == json.loads(json.dumps(result.as_json()))
    whole = kept(out)
    assert analyze_robustness(settings(base, out)) == result
    assert kept(out) == whole
    analyze_robustness(settings(base, out, draws=3))
    assert kept(out)[: len(whole)] == whole
    model = Path(base / "model.safetensors")
    model.write_bytes(model.read_bytes()[:-4] + b"\x00\x00\x80\x3e")  # one weight is another
    before = len(kept(out))
    analyze_robustness(settings(base, out, draws=1))
    assert len(kept(out)) > before + 21


def test_what_is_written(settings: MakeSettings, base: Path, tmp_path: Path) -> None:
    result = analyze_robustness(settings(base, tmp_path / "out", name="tiny", strength=0.5, tolerance=0.3))
    numbers = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert (numbers["format"], numbers["model"], numbers["base"]) == (1, "tiny", None)
    assert numbers["settings"] == {"strength": 0.5, "draws": 2, "seed": 0, "tolerance": 0.3, "system_prompt": None, "proxy": "records"}
    assert [one["name"] for one in numbers["modules"] if one["robust"]] == numbers["subset"]["modules"] == list(result.subset.names)
    assert numbers["subset"]["parameters"] == sum(one["parameters"] for one in numbers["modules"] if one["robust"])
    assert numbers["subset"]["drop"] <= 0.3 * numbers["together"]
    assert (tmp_path / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"strength": 0.0}, ConfigError, "The strength is 0"),
        ({"strength": float("nan")}, ConfigError, "The strength is nan"),
        ({"draws": 0}, ConfigError, "--draws is 0"),
        ({"batch_size": 0}, ConfigError, "--batch-size is 0"),
        ({"tolerance": 1.0}, ConfigError, "The tolerance is 1"),
        ({"base_model": "somewhere"}, ConfigError, "is no saved MoGU model"),
    ],
)
def test_bad_input_writes_nothing(
    settings: MakeSettings, base: Path, tmp_path: Path, changes: dict[str, object], error: type[MoguError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        analyze_robustness(settings(base, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("counts", "error", "complaint"),
    [
        ({"benign": 9}, DataError, "There are 9 benign prompts"),
        ({"malicious": 0}, DataError, "There are 0 malicious prompts"),
        ({"benign": 150, "malicious": 150, "shuffled": True}, MoguError, r"does not tell malicious prompts from .* is 0\.[45]\d\."),
    ],
)
def test_records_that_make_no_proxy_write_nothing(
    settings: MakeSettings,
    base: Path,
    tmp_path: Path,
    make_records: MakeRecords,
    counts: dict[str, Any],
    error: type[MoguError],
    complaint: str,
) -> None:
    with pytest.raises(error, match=complaint):
        analyze_robustness(settings(base, tmp_path / "out", records=make_records(**counts)))
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {".lock"}


def test_a_prompt_beyond_the_context_writes_nothing(settings: MakeSettings, base: Path, tmp_path: Path, word_records: list[Record]) -> None:
    long = word_records[0].model_copy(update={"instruction": "a" * 80})
    with pytest.raises(DataError, match=r"has 83 tokens.*at most 64"):
        analyze_robustness(settings(base, tmp_path / "out", records=[*word_records, long]))
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(settings: MakeSettings, base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        analyze_robustness(settings(base, tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_what_the_extra_brings_is_asked_for_at_once(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"is not installed.*mogu\[eval\]"):
        analyze_robustness(settings(Path("nowhere"), tmp_path / "out"))
