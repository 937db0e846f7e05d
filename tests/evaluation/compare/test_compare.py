"""A comparison on the lab's base and a MoGU model with random responders: what it counts, what it keeps, how it goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspect_ai import score
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, get_model, modelapi
from inspect_ai.model._providers.mockllm import MockLLM
from scipy.stats import spearmanr

from mogu.defenses import TargetModel, make_defense
from mogu.errors import MoguError
from mogu.evaluation.compare import Comparison, Results, Variant, compare
from mogu.evaluation.compare.costs import distinct_bytes
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.scorers import guard
from mogu.files.json_files import read_sealed, write_sealed
from mogu.inference.replies import ReplySettings
from tests.kills import held

LogLines = Callable[[], AbstractContextManager[list[str]]]
NAMES = ("none", "self_reminder", "retokenization", "mogu")


@pytest.fixture(scope="module")
def comparison(lab_mogu: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("compare") / "report"
    return Comparison(
        models=(str(lab_mogu),),
        out=out,
        data=("lab",),
        defenses=NAMES,
        limit=3,
        seeds=2,
        shifts=(2.0,),
        max_new_tokens=16,
        cost_prompts=2,
        cost_rounds=2,
    )


@pytest.fixture(scope="module")
def first_log(comparison: Comparison, log_lines: LogLines) -> list[str]:
    """What the first run of the comparison logged."""
    with log_lines() as lines:
        compare(comparison)
    return lines


@pytest.fixture(scope="module")
def results(comparison: Comparison, first_log: list[str]) -> dict[str, Any]:
    return dict(json.loads((comparison.out / "results.json").read_text()))


def cells(out: Path) -> dict[str, tuple[int, bytes]]:
    files = [file for file in (out / "cells").rglob("*.json") if not file.parent.name.endswith(".incoming")]
    return {str(file.relative_to(out)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.mark.usefixtures("first_log")
def test_each_cell_is_measured_once_and_only_where_the_seed_matters(comparison: Comparison) -> None:
    assert set(cells(comparison.out)) == {
        "cells/lab/seed-0/none.json",
        "cells/lab/seed-0/self_reminder.json",
        "cells/lab/seed-0/retokenization.json",
        "cells/lab/seed-1/retokenization.json",  # draws; the others' replies cannot change
        "cells/lab/seed-0/mogu.json",
        "cells/lab/seed-0/mogu@+2.json",
    }


def test_a_second_comparison_in_the_same_folder_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    with held(tmp_path / "out" / ".lock"), pytest.raises(MoguError, match="Another process is writing"):
        compare(replace(comparison, out=tmp_path / "out"))


@pytest.mark.usefixtures("first_log")
def test_cells_hold_what_the_defense_says_when_it_is_asked_directly(comparison: Comparison, lab_mogu: Path) -> None:
    prompts = read_prompts(["lab"], limit=3)
    for name, options in (("none", {}), ("mogu", {}), ("mogu", {"dial": 2.0})):
        defense = make_defense(name, TargetModel.load(lab_mogu), **options)
        replies = defense.reply([prompt.conversation for prompt in prompts], ReplySettings(16, seed=0))
        kept = json.loads((comparison.out / f"cells/lab/seed-0/{Variant(name, options.get('dial')).name}.json").read_text())
        assert [row["reply"] for row in kept["replies"]] == [reply.text for reply in replies]
        assert [row["outcome"] for row in kept["replies"]] == [
            prompt.outcome(reply.text) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        if name == "mogu":
            scores = [row["details"]["score"] for row in kept["replies"]]
            assert scores == pytest.approx([reply.details["score"] for reply in replies], abs=1e-5)


@pytest.mark.usefixtures("first_log")
def test_logs_can_be_read_by_inspect(comparison: Comparison) -> None:
    log = read_eval_log(str(comparison.out / "logs" / "lab_mogu_seed-0.eval"))
    assert log.status == "success"
    assert log.eval.model == "mogu/mogu, seed 0"
    sample = (log.samples or [])[0]
    assert sample.scores is not None
    assert sample.scores["outcome"].value in ("answered", "refused", "complied", "other")
    assert len((sample.output.metadata or {})["unwill"]) == 4
    assert log.results is not None
    shares = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    malicious = [one for one in log.samples or [] if one.metadata["category"] == "malicious"]
    refused = sum((one.scores or {})["outcome"].value == "refused" for one in malicious)
    assert shares["right, category=malicious"] == refused / len(malicious)


def test_rates_and_differences_are_what_the_cells_say(comparison: Comparison, results: dict[str, Any]) -> None:
    kept = json.loads((comparison.out / "cells/lab/seed-0/none.json").read_text())["replies"]
    refused = [row["outcome"] == "refused" for row in kept if row["id"].startswith("lab-test-malicious-")]
    row = number(results, section="rate", defense="none", category="malicious", measure="refused")
    assert (row["value"], row["n"], row["seeds"]) == (sum(refused) / 3, 3, 2)
    for row in results["numbers"]:
        assert row["low"] <= row["value"] <= row["high"], row
    assert number(results, section="difference", defense="mogu", shift=None, category="all_benign", measure="answered")["n"] == 9


def number(results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    (found,) = [row for row in results["numbers"] if all(row[name] == value for name, value in fields.items())]
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


def test_a_second_run_measures_nothing_and_finds_the_same(
    comparison: Comparison, first_log: list[str], results: dict[str, Any], log_lines: LogLines
) -> None:
    before = cells(comparison.out)
    with log_lines() as again:
        compare(comparison)
    assert cells(comparison.out) == before
    assert len(first_log) == 7  # six cells, and the costs
    assert again == []
    now = json.loads((comparison.out / "results.json").read_text())
    assert now["numbers"] == results["numbers"]


@pytest.mark.usefixtures("first_log")
def test_other_prompts_are_measured_again_and_the_costs_are_kept(comparison: Comparison, log_lines: LogLines) -> None:
    with log_lines() as lines:
        compare(replace(comparison, limit=2, defenses=("none",), shifts=(), out=comparison.out))
        assert [line.partition(":")[0] for line in lines] == ["lab, seed 0, none", "Time and memory"]  # other defenses take turns
        compare(comparison)
    assert [line.partition(":")[0] for line in lines[2:]] == ["lab, seed 0, none", "Time and memory"]


def test_a_killed_run_goes_on_and_repeats_no_finished_cell(lab_mogu: Path, tmp_path: Path, log_lines: LogLines) -> None:
    out = tmp_path / "report"
    options = ["--defenses", "none,self_reminder,icd,mogu", "--limit", "4", "--seeds", "1", "--shifts", "1,2", "--max-new-tokens", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mogu", "compare", str(lab_mogu), "--out", str(out), *options], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while len(list((out / "cells").glob("*/*/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = cells(out)
    assert 2 <= len(finished) < 6
    assert not (out / "results.json").exists()
    names, quick = ("none", "self_reminder", "icd", "mogu"), {"max_new_tokens": 16, "cost_prompts": 1, "cost_rounds": 1}
    with log_lines() as lines:
        compare(Comparison((str(lab_mogu),), out, ("lab",), defenses=names, limit=4, shifts=(1.0, 2.0), **quick))
    after = cells(out)
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 6
    assert sum(line.startswith("lab, seed 0") for line in lines) == 6 - len(finished)


def test_a_cell_of_an_earlier_format_is_measured_again(comparison: Comparison, tmp_path: Path, log_lines: LogLines) -> None:
    one = replace(comparison, out=tmp_path / "old", limit=1, seeds=1, shifts=(), defenses=("none",))
    first = compare(one)
    file = one.out / "cells/lab/seed-0/none.json"
    kept = read_sealed(file)
    assert kept is not None
    for old in ({**kept, "fingerprint": "of a format before", "replies": [{"id": "1", "reply": "Yes."}]}, {"replies": []}):
        write_sealed(file, old)
        with log_lines() as lines:
            again = compare(one)
        assert [line.partition(":")[0] for line in lines] == ["lab, seed 0, none"]
        assert again.numbers == first.numbers
        assert json.loads(file.read_text())["replies"] == kept["replies"]
    file.write_text(file.read_text().replace('"passes": ', '"passes": 1'))  # as a disk may
    with log_lines() as lines:
        assert compare(one).numbers == first.numbers
    assert [line.partition(":")[0] for line in lines] == [f"{file} is damaged", "lab, seed 0, none"]


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
    found = compare(judging)
    assert {one.estimate.value for one in found.numbers if one.measure == "harmfulness"} == {2.0}
    log = read_eval_log(str(judging.out / "logs" / "bad_none_seed-0.eval"))
    assert sum("VERA" in sample.input[-1].text for sample in log.samples or []) == 1  # the model was asked in the jailbreak
    assert len(heard) == 2
    assert all("<request>\nSharpen the spoons.\n</request>" in shown for shown in heard)
    heard.clear()
    score(log, guard(get_model("listening/guard"), family="harmbench"), model="mockllm/model", action="append")
    assert len(heard) == 2
    assert all("Behavior:\nSharpen the spoons.\n\nGeneration:" in shown for shown in heard)


def test_one_scorer_decides_all_are_reported_and_replies_are_not_made_again(
    comparison: Comparison, tmp_path: Path, log_lines: LogLines
) -> None:
    (tmp_path / "bad.txt").write_text("Sharpen the spoons.\nHide the forks.\n")
    source = f"malicious={tmp_path / 'bad.txt'}"
    one = replace(comparison, out=tmp_path / "out", data=(source,), seeds=1, shifts=(), defenses=("none",))

    def refused(results: Results) -> dict[str, float]:
        numbers = [number for number in results.numbers if number.defense == "none" and number.category == "all_malicious"]
        return {number.measure: number.estimate.value for number in numbers if number.section in ("rate", "scorer")}

    first = refused(compare(one))
    file = one.out / "cells" / "bad" / "seed-0" / "none.json"
    kept = read_sealed(file)
    assert kept is not None
    for reply, text in zip(kept["replies"], ("That would be wrong, so no.", "It is not hard: put them under the bed."), strict=True):
        reply["reply"] = text
    write_sealed(file, kept)
    with log_lines() as lines:
        by_classifier, by_strings = compare(one), compare(replace(one, scorer="strings"))
    assert first["refused_by_classifier"] == first["refused"]
    assert refused(by_classifier) == {"refused": 0.5, "refused_by_classifier": 0.5, "refused_by_strings": 0.5}
    assert [sample["replies"][0]["outcome"] for sample in by_classifier.samples] == ["refused", "complied"]
    assert [sample["replies"][0]["outcome"] for sample in by_strings.samples] == ["complied", "refused"]
    assert not lines  # neither asked the model again
    page = (one.out / "report.html").read_text()
    assert "Everywhere else on this page the list of published strings decides" in " ".join(page.split())
    assert "Cohen's κ" in page


def test_a_guard_is_a_third_scorer(comparison: Comparison, tmp_path: Path) -> None:
    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        output = ModelOutput.from_content("mockllm/model", "yes" if "spoons" in messages[-1].text else "no")
        output.usage = ModelUsage()
        return output

    @modelapi(name="watching")
    def watching() -> type[ModelAPI]:
        class Watching(MockLLM):
            def __init__(self, model_name: str, **_: Any) -> None:
                super().__init__(model_name, custom_outputs=answer)

        return Watching

    (tmp_path / "bad.txt").write_text("Sharpen the spoons.\nHide the forks.\n")
    source = f"malicious={tmp_path / 'bad.txt'}"
    guarded = replace(
        comparison, out=tmp_path / "out", data=(source,), seeds=1, shifts=(), defenses=("none",), guard="watching/HarmBench-Llama-2-13b-cls"
    )
    found = {number.measure: number.estimate.value for number in compare(guarded).numbers if number.section == "scorer"}
    assert found["refused_by_guard"] == 0.5
    assert "the guard" in (guarded.out / "report.html").read_text()


def test_a_folder_of_somebody_else_is_left_alone(lab_mogu: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        compare(Comparison((str(lab_mogu),), tmp_path, ("lab",)))


def test_tendency_is_correlated_with_what_the_cells_say(comparison: Comparison, tmp_path: Path, log_lines: LogLines) -> None:
    correlated = replace(comparison, out=tmp_path / "out", defenses=("none", "mogu"), limit=8, shifts=(), seeds=1, tendency="own")
    with log_lines() as lines:
        compare(correlated)
    tendencies = json.loads((tmp_path / "out" / "tendency.json").read_text())["tendencies"]
    prompts = read_prompts(["lab"], limit=8)
    rows = {(row["measure"], row["category"]): row for row in json.loads((tmp_path / "out" / "results.json").read_text())["numbers"]}
    scores = [reply["details"]["score"] for reply in json.loads((tmp_path / "out/cells/lab/seed-0/mogu.json").read_text())["replies"]]
    for category in ("benign", "malicious"):
        places = [place for place, one in enumerate(prompts) if one.category == category]
        wanted = spearmanr([tendencies[place] for place in places], [scores[place] for place in places]).statistic
        assert rows["score", category]["value"] == pytest.approx(wanted)
    with log_lines() as again:
        compare(correlated)
    assert [sum("Tendency" in line for line in log) for log in (lines, again)] == [1, 0]


@pytest.mark.usefixtures("first_log")
def test_costs_count_fixed_lengths_and_shared_weights(comparison: Comparison, results: dict[str, Any], lab_mogu: Path) -> None:
    costs = {cost["defense"]: cost for cost in json.loads((comparison.out / "costs.json").read_text())["costs"]}
    assert costs["none"]["passes"] == [16.0, 16.0]
    target = TargetModel.load(lab_mogu)
    assert target.mogu is not None
    alone = sum(parameter.numel() * 4 for parameter in target.base.parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in target.base.buffers())
    assert costs["none"]["weights_bytes"] == alone + buffers == distinct_bytes([target.base, target.base])
    assert costs["mogu"]["weights_bytes"] - costs["none"]["weights_bytes"] == pytest.approx(4 * target.mogu.added_parameters(), rel=0.1)
    assert np.array(costs["mogu"]["seconds"]).shape == (2, 2)


def test_a_judge_that_talks_nonsense_leaves_samples_unscored_and_the_rest_stands(
    comparison: Comparison, lab_base: Path, tmp_path: Path
) -> None:
    # The lab's model knows nothing of rating.
    judging = replace(comparison, out=tmp_path / "judged", limit=1, seeds=1, shifts=(), defenses=("none",), judge=f"mogu/{lab_base}")
    found = compare(judging)
    judged = {(one.category, one.measure): one.estimate.value for one in found.numbers if one.section == "judged"}
    assert judged == {
        (category, "unscored"): 1.0
        for category in ("malicious", "malicious_wrapped", "benign", "benign_wrapped", "borderline", "all_malicious", "all_benign")
    }
    assert any(one.section == "rate" for one in found.numbers)
    assert "As a judge rates the replies" in (judging.out / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"defenses": ("nonsense",)}, "nonsense"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"scorer": "nonsense"}, "no scorer 'nonsense'"),
        ({"guard": "openai/nonsense"}, "no guard whose format is known"),
        ({"data": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"defenses": ("sft",)}, "holds no training_report.json"),
        ({"models": ()}, "No model is named"),
        ({"tendency": "no-such-openings.json", "models": ("no-such-model",)}, "no-such-openings.json"),  # before a model is looked for
    ],
)
def test_bad_input_is_explained(lab_mogu: Path, tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(MoguError, match=found):
        compare(replace(Comparison((str(lab_mogu),), tmp_path / "out", ("lab",)), **changes))
