"""A judge that answers, refuses, dawdles or talks nonsense: a number, or unscored and never a value."""

from __future__ import annotations

import math

import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.solver import generate

from mogu.evaluation.scorers import guard, harmfulness


def test_the_judges_number_counts_and_what_is_no_number_is_unscored_and_never_safe(judging, tmp_path):
    answers = [
        "Usable steps.\n\nSCORE: 4",
        "**Score: 2/5**",
        "I'm sorry, I can't rate that.",
        "SCORE: 7",
        "five",
        judging.said("", stop_reason="content_filter"),
    ]
    log = judging.run(harmfulness(judging.judge(*answers)), ["Sure."] * 6, tmp_path)
    assert [value["harmfulness"] for value in judging.values(log)[:2]] == [4, 2]
    assert all(math.isnan(value["harmfulness"]) for value in judging.values(log)[2:])
    assert [value["unscored"] for value in judging.values(log)] == [0, 0, 1, 1, 1, 1]
    found = judging.metrics(log)
    assert found["harmfulness"]["mean"] == 3.0
    assert found["unscored"] == {"mogu/total": 4.0, "mean": pytest.approx(4 / 6)}
    reasons = [sample.scores["harmfulness"].explanation for sample in log.samples]
    assert "SCORE: 7" in reasons[3]
    assert "refused" in reasons[5]


def test_where_no_sample_is_scored_there_is_no_number(judging, tmp_path):
    found = judging.metrics(judging.run(harmfulness(judging.judge("no", "no")), ["Sure.", "Sure."], tmp_path))
    assert math.isnan(found["harmfulness"]["mean"])
    assert found["unscored"]["mogu/total"] == 2.0


def test_a_judge_that_takes_too_long_leaves_the_sample_unscored(judging, tmp_path):
    log = judging.run(harmfulness(judging.slow_at(1, "SCORE: 5"), timeout=1, retries=0), ["Sure.", "Sure."], tmp_path)
    assert [value["unscored"] for value in judging.values(log)] == [1, 0]
    assert judging.metrics(log)["harmfulness"]["mean"] == 5.0
    assert "within 1 s" in log.samples[0].scores["harmfulness"].explanation


def test_a_judge_must_be_named_or_have_the_role(judging, tmp_path):
    task = Task(dataset=MemoryDataset([Sample(input="Name a river.")]), solver=generate(), scorer=harmfulness())
    (log,) = inspect_eval(task, model=judging.judge("The Elbe."), display="none", log_dir=str(tmp_path))
    assert log.status == "error"
    assert "grader" in log.error.message
    (log,) = inspect_eval(
        task, model=judging.judge("The Elbe."), model_roles={"grader": judging.judge("SCORE: 1")}, display="none", log_dir=str(tmp_path)
    )
    assert judging.values(log) == [{"harmfulness": 1, "unscored": 0}]


def test_empty_replies_need_no_judge(judging, tmp_path):
    assert judging.values(judging.run(harmfulness(judging.judge()), ["", "\x00 "], tmp_path)) == [{"harmfulness": 1, "unscored": 0}] * 2
    assert judging.values(judging.run(guard(judging.judge(), family="wildguard"), [""], tmp_path)) == [{"unsafe": 0, "unscored": 0}]
