"""A comparison on the lab's base and a MoGU model with random responders: what it counts, what it keeps, how it goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspect_ai import score
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, get_model, modelapi
from inspect_ai.model._providers.mockllm import MockLLM
from scipy.stats import spearmanr

from mogu import MoguConfig, MoguModel
from mogu.defenses import TargetModel, make_defense
from mogu.errors import MoguError
from mogu.evaluation.compare import Comparison, Variant, compare
from mogu.evaluation.compare.cells import Row
from mogu.evaluation.compare.costs import DefenseCost, distinct_bytes
from mogu.evaluation.compare.metrics import cost_numbers, detector, frontier, judged_means, rates, routing_weights
from mogu.evaluation.intervals import wilson
from mogu.evaluation.prompts import read_asked
from mogu.evaluation.scorers import guard
from mogu.hub import load_base
from mogu.inference.replies import ReplySettings
from mogu.modeling.config import BackboneConfig

NAMES = ("none", "self_reminder", "retokenization", "mogu")


@pytest.fixture(scope="module")
def comparison(lab_mogu: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("compare") / "report"
    return Comparison(
        model=str(lab_mogu), out=out, defenses=NAMES, limit=3, seeds=2, shifts=(2.0,), max_new_tokens=16, cost_prompts=2, cost_rounds=2
    )


@pytest.fixture(scope="module")
def told(comparison: Comparison) -> list[str]:
    """What the first run of the comparison said."""
    lines: list[str] = []
    compare(comparison, tell=lines.append)
    return lines


@pytest.fixture(scope="module")
def results(comparison: Comparison, told: list[str]) -> dict[str, Any]:
    return dict(json.loads((comparison.out / "results.json").read_text()))


def cells(out: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file.relative_to(out)): (file.stat().st_mtime_ns, file.read_bytes()) for file in (out / "cells").rglob("*.json")}


@pytest.mark.usefixtures("told")
def test_each_cell_is_measured_once_and_only_where_the_seed_matters(comparison: Comparison) -> None:
    assert set(cells(comparison.out)) == {
        "cells/lab/seed-0/none.json",
        "cells/lab/seed-0/self_reminder.json",
        "cells/lab/seed-0/retokenization.json",
        "cells/lab/seed-1/retokenization.json",  # draws; the others' replies cannot change
        "cells/lab/seed-0/mogu.json",
        "cells/lab/seed-0/mogu@+2.json",
    }


@pytest.mark.usefixtures("told")
def test_cells_hold_what_the_defense_says_when_it_is_asked_directly(comparison: Comparison, lab_mogu: Path) -> None:
    asked = read_asked(["lab"], limit=3)
    for name, options in (("none", {}), ("mogu", {}), ("mogu", {"dial": 2.0})):
        defense = make_defense(name, TargetModel.load(lab_mogu), **options)
        replies = defense.reply([one.conversation for one in asked], ReplySettings(16, seed=0))
        kept = json.loads((comparison.out / f"cells/lab/seed-0/{Variant(name, options.get('dial')).name}.json").read_text())
        assert [row["reply"] for row in kept["replies"]] == [reply.text for reply in replies]
        assert [row["outcome"] for row in kept["replies"]] == [one.outcome(reply.text) for one, reply in zip(asked, replies, strict=True)]
        if name == "mogu":
            scores = [row["details"]["score"] for row in kept["replies"]]
            assert scores == pytest.approx([reply.details["score"] for reply in replies], abs=1e-5)


@pytest.mark.usefixtures("told")
def test_logs_can_be_read_by_inspect(comparison: Comparison) -> None:
    log = read_eval_log(str(comparison.out / "logs" / "lab_mogu_seed-0.eval"))
    assert log.status == "success"
    assert log.eval.model == "mogu/mogu, seed 0"
    sample = (log.samples or [])[0]
    assert sample.scores is not None
    assert sample.scores["outcome"].value in ("answered", "refused", "complied", "other")
    assert len((sample.output.metadata or {})["unwill"]) == 4


def test_rates_and_differences_are_what_the_cells_say(comparison: Comparison, results: dict[str, Any]) -> None:
    kept = json.loads((comparison.out / "cells/lab/seed-0/none.json").read_text())["replies"]
    refused = [row["outcome"] == "refused" for row in kept if row["id"].startswith("lab-test-malicious-")]
    row = number(results, section="rate", defense="none", category="malicious", measure="refused")
    assert (row["value"], row["n"], row["seeds"]) == (sum(refused) / 3, 3, 2)
    for row in results["numbers"]:
        assert row["low"] <= row["value"] <= row["high"], row
    assert number(results, section="difference", defense="mogu", shift=None, category="all_benign", measure="answered")["n"] == 9


def number(results: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    (found,) = [row for row in results["numbers"] if all(row[name] == value for name, value in wanted.items())]
    return dict(found)


def test_the_table_holds_every_number_of_the_json(comparison: Comparison, results: dict[str, Any]) -> None:
    with (comparison.out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["numbers"])
    assert [float(row["value"]) for row in rows] == [row["value"] for row in results["numbers"]]
    assert {row["section"] for row in rows} == {"rate", "difference", "wrapper", "cost", "routing", "detector"}


def test_samples_are_the_first_prompts_whatever_became_of_them(results: dict[str, Any]) -> None:
    ids = [sample["id"] for sample in results["samples"]]
    kinds = ("benign", "benign_wrapped", "borderline", "malicious", "malicious_wrapped")
    assert ids == [f"lab-test-{category}-00{place}" for category in kinds for place in (0, 1)]
    assert all([reply["defense"] for reply in sample["replies"]] == list(NAMES) for sample in results["samples"])


def test_a_second_run_measures_nothing_and_finds_the_same(comparison: Comparison, told: list[str], results: dict[str, Any]) -> None:
    before, again = cells(comparison.out), list[str]()
    compare(comparison, tell=again.append)
    assert cells(comparison.out) == before
    assert len(told) == 7  # six cells, and the costs
    assert again == []
    now = json.loads((comparison.out / "results.json").read_text())
    assert now["numbers"] == results["numbers"]


def test_other_prompts_are_measured_anew_and_the_costs_are_kept(comparison: Comparison, told: list[str]) -> None:
    lines: list[str] = []
    compare(replace(comparison, limit=2, defenses=("none",), shifts=(), out=comparison.out), tell=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["lab, seed 0, none", "Time and memory"]  # other defenses take turns
    compare(comparison, tell=lines.append)
    assert [line.partition(":")[0] for line in lines[2:]] == ["lab, seed 0, none", "Time and memory"]


def test_a_killed_run_goes_on_and_repeats_no_finished_cell(lab_mogu: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--defenses", "none,self_reminder,icd,mogu", "--limit", "4", "--seeds", "1", "--shifts", "1,2", "--max-new-tokens", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mogu", "compare", str(lab_mogu), "--out", str(out), *options], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while len(list((out / "cells").rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = cells(out)
    assert 2 <= len(finished) < 6
    assert not (out / "results.json").exists()
    lines: list[str] = []
    names = ("none", "self_reminder", "icd", "mogu")
    compare(
        Comparison(str(lab_mogu), out, defenses=names, limit=4, shifts=(1.0, 2.0), max_new_tokens=16, cost_prompts=1, cost_rounds=1),
        tell=lines.append,
    )
    after = cells(out)
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 6
    assert sum(line.startswith("lab, seed 0") for line in lines) == 6 - len(finished)


def test_a_cell_of_an_earlier_format_is_measured_anew(comparison: Comparison, tmp_path: Path) -> None:
    one = replace(comparison, out=tmp_path / "old", limit=1, seeds=1, shifts=(), defenses=("none",))
    first = compare(one, tell=lambda _: None)
    file = one.out / "cells/lab/seed-0/none.json"
    kept = json.loads(file.read_text())
    for old in ({**kept, "fingerprint": "of a format before", "replies": [{"id": "1", "reply": "Yes."}]}, {"replies": []}):
        file.write_text(json.dumps(old))
        lines: list[str] = []
        again = compare(one, tell=lines.append)
        assert [line.partition(":")[0] for line in lines] == ["lab, seed 0, none"]
        assert again.numbers == first.numbers
        assert json.loads(file.read_text())["replies"] == kept["replies"]


def test_judge_and_guard_see_the_plain_request_and_the_model_the_jailbreak(comparison: Comparison, tmp_path: Path) -> None:
    heard: list[str] = []

    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        heard.append(messages[-1].text)
        output = ModelOutput.from_content("mockllm/model", "SCORE: 2")
        output.usage = ModelUsage()
        return output

    @modelapi(name="listening")
    def listening() -> type[ModelAPI]:
        class Listening(MockLLM):
            def __init__(self, model_name: str, **_: Any) -> None:
                super().__init__(model_name, custom_outputs=answer)

        return Listening

    (tmp_path / "bad.txt").write_text("Sharpen the spoons.\n")
    source = f"malicious={tmp_path / 'bad.txt'}"
    judging = replace(
        comparison, out=tmp_path / "out", data=(source,), jailbreaks="own", seeds=1, shifts=(), defenses=("none",), judge="listening/judge"
    )
    found = compare(judging, tell=lambda _: None)
    assert {one.estimate.value for one in found.numbers if one.measure == "harmfulness"} == {2.0}
    log = read_eval_log(str(judging.out / "logs" / "bad_none_seed-0.eval"))
    assert sum("VERA" in sample.input[-1].text for sample in log.samples or []) == 1  # the model was asked in the jailbreak
    assert len(heard) == 2
    assert all("<request>\nSharpen the spoons.\n</request>" in shown for shown in heard)
    heard.clear()
    score(log, guard(get_model("listening/guard"), family="harmbench"), model="mockllm/model", action="append")
    assert len(heard) == 2
    assert all("Behavior:\nSharpen the spoons.\n\nGeneration:" in shown for shown in heard)


def test_a_folder_of_somebody_else_is_left_alone(lab_mogu: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        compare(Comparison(str(lab_mogu), tmp_path), tell=print)


def test_tendency_is_correlated_with_what_the_cells_say(comparison: Comparison, tmp_path: Path) -> None:
    asked = replace(comparison, out=tmp_path / "out", defenses=("none", "mogu"), limit=8, shifts=(), seeds=1, tendency="own")
    told: list[str] = []
    compare(asked, tell=told.append)
    tendencies = json.loads((tmp_path / "out" / "tendency.json").read_text())["tendencies"]
    prompts = read_asked(["lab"], limit=8)
    rows = {(row["measure"], row["category"]): row for row in json.loads((tmp_path / "out" / "results.json").read_text())["numbers"]}
    scores = [reply["details"]["score"] for reply in json.loads((tmp_path / "out/cells/lab/seed-0/mogu.json").read_text())["replies"]]
    for category in ("benign", "malicious"):
        places = [place for place, one in enumerate(prompts) if one.category == category]
        wanted = spearmanr([tendencies[place] for place in places], [scores[place] for place in places]).statistic
        assert rows["score", category]["value"] == pytest.approx(wanted)
    compare(asked, tell=told.append)
    assert sum("Tendency" in line for line in told) == 1


def test_a_second_model_stands_beside_the_first(lab_mogu: Path, lab_base: Path, tmp_path: Path) -> None:
    config = MoguConfig(layers=[2, 3], backbone=BackboneConfig(rank=2), base_model=str(lab_base))
    model = MoguModel.from_base(load_base(str(lab_base)), config)
    for layer in model.routed_layers:
        layer.set_responder("unwill", torch.randn(8, layer.in_features), torch.randn(layer.out_features, 8))
    model.save_pretrained(tmp_path / "v2")
    asked = Comparison(str(lab_mogu), tmp_path / "out", ("none", "mogu", "mogu_v2"), limit=1, shifts=(), max_new_tokens=8, cost_prompts=1)
    with pytest.raises(MoguError, match="on a MoGU V1 model"):
        compare(replace(asked, v2=str(lab_mogu)), tell=lambda _: None)
    compare(replace(asked, v2=str(tmp_path / "v2")), tell=lambda _: None)
    cell = json.loads((tmp_path / "out" / "cells" / "lab" / "seed-0" / "mogu_v2.json").read_text())
    subject = TargetModel.load(tmp_path / "v2")
    assert subject.mogu is not None
    prompts = [one.conversation for one in read_asked(["lab"], limit=1)]
    said = [make_defense("mogu_v2", subject).reply([prompt], ReplySettings(8, seed=0))[0].text for prompt in prompts]
    assert [reply["reply"] for reply in cell["replies"]] == said
    costs = {one["defense"]: one for one in json.loads((tmp_path / "out" / "costs.json").read_text())["costs"]}
    assert costs["mogu_v2"]["added_parameters"] == model.added_parameters()
    assert costs["none"]["added_parameters"] is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"defenses": ("nonsense",)}, "nonsense"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"data": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"defenses": ("sft",)}, "holds no training_report.json"),
        ({"defenses": ("mogu_v2",)}, "No MoGU V2 model is named"),
        ({"tendency": "no-such-openings.json", "model": "no-such-model"}, "no-such-openings.json"),  # before a model is looked for
    ],
)
def test_bad_input_is_explained(lab_mogu: Path, tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(MoguError, match=found):
        compare(replace(Comparison(str(lab_mogu), tmp_path / "out"), **changes), tell=print)


def row(outcome: str, **details: Any) -> Row:
    return Row("id", "text", outcome, 1, True, False, 1.0, 1.0, details)  # type: ignore[arg-type]


def test_numbers_of_a_grid_made_by_hand() -> None:
    asked = [one for one in read_asked(["lab"], limit=2) if one.category in ("malicious", "benign")]
    assert [one.category for one in asked] == ["benign", "benign", "malicious", "malicious"]
    grid = {
        Variant("none"): [[row("answered"), row("other"), row("complied"), row("complied")]],
        Variant("sft"): [[row("answered"), row("refused"), row("refused"), row("complied")]],
        Variant("mogu"): [[row("answered"), row("answered"), row("refused"), row("refused")]],
        Variant("mogu_v2"): [[row("refused"), row("answered"), row("refused"), row("refused")]],
    }
    numbers = list(rates(asked, grid))
    found = {(one.section, one.defense, one.category, one.measure): one.estimate for one in numbers}
    assert found["rate", "mogu", "malicious", "refused"].value == 1.0
    assert (found["rate", "sft", "benign", "refused"].low, found["rate", "sft", "benign", "refused"].high) == wilson(0.5, 2)
    assert found["difference", "sft", "malicious", "refused"].value == 0.5
    assert found["difference", "mogu", "all_benign", "answered"].value == 0.5
    assert frontier(numbers) == ["mogu"]
    assert ("difference", "none", "benign", "answered") not in found
    assert found["v2", "mogu_v2", "benign", "answered"].value == -0.5
    assert found["v2", "mogu_v2", "malicious", "refused"].value == 0.0
    assert {defense for section, defense, _, _ in found if section == "v2"} == {"mogu_v2"}


def test_routing_weights_and_detector_of_a_grid_made_by_hand() -> None:
    asked = [one for one in read_asked(["lab"], limit=2) if one.category in ("malicious", "benign")]
    weights = [([0.1, 0.2], [0.9, 0.8], 0.2), ([0.3, 0.2], [0.7, 0.8], 0.4), ([0.9, 0.6], [0.1, 0.4], 0.3), ([0.7, 0.8], [0.3, 0.2], 0.9)]
    seeds = [[row("other", unwill=unwill, glad=glad, score=score) for unwill, glad, score in weights]]
    found = {(one.category, one.measure, one.layer): one.estimate.value for one in routing_weights(asked, seeds, [1, 2])}
    assert found["benign", "unwill_weight", 1] == pytest.approx(0.2)
    assert found["malicious", "glad_weight", 2] == pytest.approx(0.3)
    assert found["benign", "unwill_spread", 1] == pytest.approx(0.1)
    numbers, curves = detector(asked, seeds)
    areas = {one.category: one.estimate.value for one in numbers}
    assert areas == {"malicious against benign": 0.75, "all malicious against all benign": 0.75}  # three of four pairs in order
    assert set(curves) == set(areas)


def test_added_latency_is_paired_by_turn() -> None:
    # A machine that gets slower makes both defenses slower: the ratio of each turn is 1.5 all the same.
    plain = DefenseCost("none", [[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]], [1, 1], [1, 1], 100, None)
    other = DefenseCost("icd", [[1.5, 3.0, 6.0], [1.5, 4.5, 13.5]], [2, 2], [5, 7], 100, None)
    found = {(one.defense, one.measure): one.estimate for one in cost_numbers([plain, other])}
    assert found["icd", "added_latency"].value == pytest.approx(0.5)
    assert found["icd", "seconds"].value == 3.75
    assert (found["icd", "tokens"].value, found["icd", "passes"].value) == (6, 2)
    assert ("icd", "peak_bytes") not in found
    first = DefenseCost("mogu", [[2.0, 4.0, 8.0], [2.0, 6.0, 18.0]], [1, 1], [1, 1], 100, None, 5000)
    second = DefenseCost("mogu_v2", [[1.5, 3.0, 6.0], [1.5, 4.5, 13.5]], [1, 1], [1, 1], 100, None, 2000)
    rows = {(one.section, one.defense, one.measure): one.estimate.value for one in cost_numbers([plain, first, second])}
    assert rows["v2", "mogu_v2", "added_latency"] == pytest.approx(-0.25)
    assert rows["cost", "mogu_v2", "added_parameters"] == 2000


@pytest.mark.usefixtures("told")
def test_costs_count_fixed_lengths_and_shared_weights(comparison: Comparison, results: dict[str, Any], lab_mogu: Path) -> None:
    costs = {cost["defense"]: cost for cost in json.loads((comparison.out / "costs.json").read_text())["costs"]}
    assert costs["none"]["passes"] == [16.0, 16.0]
    subject = TargetModel.load(lab_mogu)
    assert subject.mogu is not None
    alone = sum(parameter.numel() * 4 for parameter in subject.base.parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in subject.base.buffers())
    assert costs["none"]["weights_bytes"] == alone + buffers == distinct_bytes([subject.base, subject.base])
    assert costs["mogu"]["weights_bytes"] - costs["none"]["weights_bytes"] == pytest.approx(4 * subject.mogu.added_parameters(), rel=0.1)
    assert np.array(costs["mogu"]["seconds"]).shape == (2, 2)


def test_tied_weights_count_once() -> None:
    first = torch.nn.Linear(4, 4, bias=False)
    second = torch.nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert distinct_bytes([first, second]) == 64


def test_a_judges_numbers_are_means_over_what_it_scored() -> None:
    asked = [one for one in read_asked(["lab"], limit=2) if one.category in ("malicious", "benign")]
    judged: list[dict[str, float]] = [
        {"clarity": 4, "unscored": 0},
        {"unscored": 1},
        {"harmfulness": 1, "unscored": 0},
        {"harmfulness": 4, "unscored": 0},
    ]
    grid = {Variant("none"): [[replace(row("other"), judged=numbers) for numbers in judged]]}
    found = {(one.category, one.measure): one.estimate for one in judged_means(asked, grid)}
    assert (found["benign", "clarity"].value, found["benign", "clarity"].n) == (4.0, 1)
    assert found["benign", "unscored"].value == 0.5
    assert found["malicious", "harmfulness"].value == 2.5
    assert ("malicious", "clarity") not in found


def test_a_judge_that_talks_nonsense_leaves_samples_unscored_and_the_rest_stands(
    comparison: Comparison, lab_base: Path, tmp_path: Path
) -> None:
    # The lab's model knows nothing of rating.
    judging = replace(comparison, out=tmp_path / "judged", limit=1, seeds=1, shifts=(), defenses=("none",), judge=f"mogu/{lab_base}")
    found = compare(judging, tell=lambda _: None)
    judged = {(one.category, one.measure): one.estimate.value for one in found.numbers if one.section == "judged"}
    assert judged == {
        (category, "unscored"): 1.0
        for category in ("malicious", "malicious_wrapped", "benign", "benign_wrapped", "borderline", "all_malicious", "all_benign")
    }
    assert any(one.section == "rate" for one in found.numbers)
    assert "As a judge rates the replies" in (judging.out / "report.html").read_text()
