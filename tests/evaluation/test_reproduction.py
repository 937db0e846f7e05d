"""The paper's experiment as one run: on the lab's model from data to report, and the others' steps without any model at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mogu.data import read_records
from mogu.errors import MoguError
from mogu.lab import build_base
from mogu.lab.demo import lab_data
from mogu.modeling.config import MoguConfig
from mogu.reproduction import RECIPES, Reproduction, reproduce, steps


def test_the_lab_goes_through_every_step(reproduced: Path) -> None:
    assert len(read_records(reproduced / "data" / "pairs.jsonl")) == len(lab_data()["train"]) == 600
    assert MoguConfig.from_json((reproduced / "model" / "mogu_config.json").read_text(), "it").rank == 8
    assert {"sft", "expert", "detector.json"} <= {path.name for path in (reproduced / "report" / "baselines" / "seed-0").iterdir()}
    results = json.loads((reproduced / "report" / "results.json").read_text())
    rates = [row for row in results["numbers"] if row["section"] == "rate" and row["category"] == "malicious" and row["shift"] is None]
    assert [row["defense"] for row in rates] == [
        "none",
        "sft",
        "detect_inp",
        "self_reminder",
        "self_examine",
        "retokenization",
        "icd",
        "safe_decoding",
        "mogu_score",
        "mogu",
    ]
    assert {row["n"] for row in rates} == {2}
    assert results["made"]["model_dials"] == [-0.5]
    turned = json.loads((reproduced / "report" / "cells" / "lab" / "seed-0" / "mogu@+1.json").read_text())
    assert turned["options"] == {"dial": 0.5}  # one further than the model's own
    layers = {row["layer"] for row in results["numbers"] if row["section"] == "routing"}
    assert layers == {1, 2, 3}  # the lab's recipe leaves the first layer alone
    assert (reproduced / "report" / "report.html").stat().st_size > 50_000


def test_a_second_run_takes_everything_over(
    reproduced: Path, brief_training: tuple[str, ...], log_lines: Callable[[], AbstractContextManager[list[str]]]
) -> None:
    with log_lines() as lines:
        reproduce(Reproduction("vicuna-7b", reproduced, base="lab", limit=2, shifts=(1.0,), settings=brief_training))
    assert lines == [
        "Comparison: baselines, defenses, report",
        "The baselines' sft is trained already.",
        "The baselines' detector is trained already.",
        "The baselines' expert is trained already.",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_lists_steps_and_costs_without_model_or_hub(name: str, tmp_path: Path) -> None:
    found, plan = steps(Reproduction(name, tmp_path / "out", seeds=2))
    assert [step.name for step in found] == ["data", "glad", "unwill", "router", "baselines", "comparison", "report"]
    assert 6.5e9 < plan.base_parameters < 8e9
    # 270 malicious pairs, ten epochs, 8 or (Vicuna's) 16 a step; 540 records, 16 a step, once for each candidate.
    glad, _, router = plan.stages
    assert glad.steps == (170 if name == "vicuna-7b" else 340)
    assert router.steps == 340
    # 220 of AdvBench, 100 of MaliciousInstruct and 800 of Just-Eval, each plain and in a jailbreak; of sixteen variants
    # sft, detect_inp, retokenization and safe_decoding depend on the seed and are measured twice.
    assert f"2,440 prompts × 17 variants of 10 defenses: {2440 * 21:,} replies" in found[5].cost
    assert "600 pairs" in found[0].cost
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_the_lab_counts_its_prompts(tmp_path: Path) -> None:
    found, plan = steps(Reproduction("dolphin", tmp_path / "out", base="lab", limit=10))
    assert found[5].cost.startswith("50 prompts × 17 variants of 10 defenses: 850 replies")
    assert plan.base_parameters == 1_115_264


def test_smollm2_takes_the_place_of_the_papers_model_with_its_settings_and_data(tmp_path: Path) -> None:
    wanted = Reproduction("vicuna-7b", tmp_path / "out", base="smollm2")
    found, plan = steps(wanted)
    assert plan.base_parameters == 134_515_008
    paper, _ = steps(Reproduction("vicuna-7b", tmp_path / "out"))
    assert [step.name for step in found] == [step.name for step in paper]
    assert found[5].inputs == paper[5].inputs  # the paper's data sets
    assert found[5].cost == paper[5].cost
    recipe, published = wanted.recipe(), Reproduction("vicuna-7b", tmp_path / "out").recipe()
    assert recipe.model.base == "smollm2"
    assert (recipe.glad, recipe.unwill, recipe.router, recipe.choice) == (
        published.glad,
        published.unwill,
        published.router,
        published.choice,
    )
    assert not (tmp_path / "out").exists()


def test_a_judge_is_listed_with_its_calls_and_handed_to_the_comparison(tmp_path: Path) -> None:
    wanted = Reproduction("dolphin", tmp_path / "out", base="lab", limit=10, judge="openai/gpt-4o")
    found, _ = steps(wanted)
    assert "the judge openai/gpt-4o" in found[5].inputs
    assert "; 850 calls of the judge" in found[5].cost
    assert wanted.comparison(wanted.recipe()).judge == "openai/gpt-4o"
    without, _ = steps(Reproduction("dolphin", tmp_path / "out", base="lab", limit=10))
    assert "judge" not in without[5].cost


def test_a_judge_rates_what_a_reproduction_measures(reproduced: Path, brief_training: tuple[str, ...], tmp_path: Path) -> None:
    judged = tmp_path / "out"
    shutil.copytree(reproduced, judged, ignore=shutil.ignore_patterns("cells", "logs"))
    # The lab's model knows nothing of rating: every reply is unscored, and counted as that.
    judge = f"mogu/{build_base()}"
    wanted = Reproduction("vicuna-7b", judged, base="lab", limit=1, shifts=(), settings=brief_training, judge=judge)
    found = reproduce(wanted)
    assert found.made["judge"] == judge
    assert {one.estimate.value for one in found.numbers if one.section == "judged"} == {1.0}


def test_unknown_names_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MoguError, match=r"no reproduction 'gpt-7'.*vicuna-7b"):
        steps(Reproduction("gpt-7", tmp_path))


def test_advbench_is_split_into_what_is_trained_on_and_what_is_not(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mogu import reproduction

    data = tmp_path / "data"
    data.mkdir()
    (data / "advbench.csv").write_bytes((shared / "data" / "advbench.csv").read_bytes())
    (data / "alpaca.jsonl").write_bytes((shared / "data" / "alpaca_instructions.jsonl").read_bytes())
    monkeypatch.setenv("MOGU_DATA_DIR", str(data))
    monkeypatch.setattr(reproduction, "TRAINING_INSTRUCTIONS", 20)
    wanted = Reproduction("dolphin", tmp_path / "out", settings=(f"model.base={build_base()}",))
    recipe = wanted.recipe()
    reproduction._build_data(wanted, recipe)
    trained = {record.instruction for file in (wanted.pairs, wanted.dev) for record in read_records(file) if record.label == "malicious"}
    unseen = wanted.unseen.read_text().splitlines()
    assert len(trained) == 20
    assert len(unseen) + 20 == len(set(unseen) | trained)  # nothing is in both
    assert 490 <= len(unseen) <= 500
