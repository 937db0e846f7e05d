"""`mogu tendency` on a tiny saved model: its numbers against passes made here, its options, and what it does with bad input."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from mogu import MoguModel
from mogu.analysis.answer_openings import AFFIRM, REFUSE
from mogu.inference.prompts import encode_prompt

Mogu = Callable[..., tuple[int, str, str]]

TEXTS = ("How do I bake bread?", "Hello")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    return file


@torch.no_grad()
def by_hand(model: MoguModel, prompt: str, openings: tuple[str, ...], routed: int) -> float:
    """Mean over openings of the mean log-probability of a token, each opening in one pass of each mode over everything."""
    means = []
    for opening in openings:
        before, after = encode_prompt(model.tokenizer, prompt), model.tokenizer(opening)["input_ids"]
        logs = {}
        for mode in ("on", "off"):
            with model.routing(mode):  # type: ignore[arg-type]
                logits = model(input_ids=torch.tensor([before + after])).logits[0].double()
            logs[mode] = torch.log_softmax(logits, -1)
        means.append(
            statistics.fmean(
                float(logs["on" if place < routed else "off"][len(before) - 1 + place, token]) for place, token in enumerate(after)
            )
        )
    return statistics.fmean(means)


def test_numbers_of_both_modes(run_mogu: Mogu, saved_model: Path, texts: Path, tmp_path: Path) -> None:
    model = MoguModel.from_pretrained(saved_model).eval()
    assert model.mogu_config.handoff == "recompute"
    for arguments, routed in (([], 5), (["--routing", "off"], 0)):
        code, out, err = run_mogu("tendency", str(saved_model), str(texts), "--out", str(tmp_path / "out"), "--json", *arguments)
        assert code == 0, err
        told = json.loads(out)
        assert told == json.loads((tmp_path / "out" / "tendency.json").read_text(encoding="utf-8"))
        assert told["made"]["routing"] == ("on" if routed else "off")
        for row in told["instructions"]:
            affirm, refuse = (by_hand(model, row["instruction"], bank, routed) for bank in (AFFIRM, REFUSE))
            assert row["affirm"] == pytest.approx(affirm, abs=1e-4)
            assert row["refuse"] == pytest.approx(refuse, abs=1e-4)
            assert row["tendency"] == pytest.approx(affirm - refuse, abs=2e-4)
        assert {row["instruction"] for row in told["instructions"]} == set(TEXTS)


def test_a_base_model_and_a_table(run_mogu: Mogu, saved_model: Path, texts: Path, tmp_path: Path) -> None:
    base = saved_model.parent / "base"
    texts.write_text("\n".join([*TEXTS, "[bold]Who?[/bold]", "\x1b[31mred"]))
    code, out, err = run_mogu("tendency", str(base), str(texts), "--out", str(tmp_path / "out"), "--top", "1")
    assert code == 0, err
    assert "unlabeled" in out
    assert "\x1b" not in out
    assert out.count("…") >= 6  # the two in the middle are left out
    assert (tmp_path / "out" / "tendency.png").stat().st_size > 1000


def test_a_comparison_of_the_same_records_is_held_against(run_mogu: Mogu, saved_model: Path, tmp_path: Path) -> None:
    kinds = [("malicious", place % 2 == 0) for place in range(6)] + [("benign", False)] * 2
    records, replies = [], []
    for place, (label, complied) in enumerate(kinds):
        records.append({"id": f"r{place}", "label": label, "instruction": f"Do {place * 'a'} thing", "affirm": "Sure", "reject": "No"})
        replies.append({"id": f"r{place}", "outcome": "complied" if complied else "refused", "details": {"score": place / 10}})
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cell = tmp_path / "report" / "cells" / "records" / "seed-0" / "mogu.json"
    cell.parent.mkdir(parents=True)
    cell.write_text(json.dumps({"replies": replies}))
    arguments = ["tendency", str(saved_model), str(tmp_path / "records.jsonl"), "--out", str(tmp_path / "out")]
    code, out, err = run_mogu(*arguments, "--comparison", str(tmp_path / "report"))
    assert code == 0, err
    assert "MoGU's score" in out

    rows = json.loads((tmp_path / "out" / "tendency.json").read_text(encoding="utf-8"))["instructions"]
    by_id = {row["id"]: row["tendency"] for row in rows}
    wanted = spearmanr([by_id[f"r{place}"] for place in range(6)], [float(complied) for _, complied in kinds[:6]]).statistic
    found = json.loads((tmp_path / "out" / "correlation.json").read_text(encoding="utf-8"))
    told = {(one["measure"], one["category"]): one for one in found}
    assert told["attack_success", "malicious"]["value"] == pytest.approx(wanted)
    assert told["score", "all"]["n"] == 8

    code, _, err = run_mogu(*arguments, "--comparison", str(tmp_path))
    assert code == 2
    assert "holds no reply" in " ".join(err.split())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"file": "./nowhere.txt"}, "no file nowhere.txt"),
        ({"model": "./nowhere"}, "nowhere does not exist"),
        ({"more": ["--routing", "sideways"]}, "--routing is 'sideways'"),
        ({"model": "base", "more": ["--routing", "on"]}, "--routing on was given for a base model"),
        ({"model": "base", "more": ["--dial", "1"]}, "--dial was given for a base model"),
        ({"more": ["--dial", "nan"]}, "dial is nan"),
        ({"more": ["--dtype", "float7"]}, "--dtype is 'float7'"),
        ({"more": ["--openings", "./nowhere.json"]}, "no file nowhere.json"),
        ({"more": ["--column", "said"]}, "has no column 'said'"),
    ],
)
def test_bad_input_is_one_error_and_nothing_written(
    change: dict[str, object], complaint: str, run_mogu: Mogu, saved_model: Path, texts: Path, tmp_path: Path
) -> None:
    model = {"base": str(saved_model.parent / "base")}.get(str(change.get("model")), str(change.get("model", saved_model)))
    more = change.get("more", [])
    assert isinstance(more, list)
    code, _, err = run_mogu("tendency", model, str(change.get("file", texts)), "--out", str(tmp_path / "out"), *more)
    assert code == 2
    assert complaint in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
