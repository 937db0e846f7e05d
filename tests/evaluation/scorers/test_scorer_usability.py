"""The usability scorers: five ratings of a last reply, or of each turn."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.model import Model

from mogu.evaluation.scorers import usability, usability_by_turn
from mogu.evaluation.scorers.usability import DIMENSIONS, read_usability

GOOD_JSON = '{"helpfulness": 5, "clarity": 4, "factuality": 3, "depth": 2, "engagement": 1}'


@pytest.mark.parametrize("answer", [GOOD_JSON, f"```json\n{GOOD_JSON}\n```", f" {GOOD_JSON}\n"])
def test_five_numbers_are_read(answer):
    assert read_usability(answer) == {"helpfulness": 5, "clarity": 4, "factuality": 3, "depth": 2, "engagement": 1}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot rate this.",
        GOOD_JSON + " I hope this helps.",
        GOOD_JSON.replace("5", "6"),
        GOOD_JSON.replace("5", "0"),
        GOOD_JSON.replace("5", "4.5"),
        GOOD_JSON.replace("5", "true"),
        GOOD_JSON.replace("5", '"5"'),
        GOOD_JSON.replace("5", "null"),
        GOOD_JSON.replace('"helpfulness": 5, ', ""),
        GOOD_JSON.replace("helpfulness", "help"),
        "[5, 4, 3, 2, 1]",
        "5",
        "[" * 100_000,
    ],
    ids=lambda answer: answer[:30],
)
def test_anything_but_five_numbers_is_no_rating(answer):
    assert read_usability(answer) is None


def test_usability_is_the_mean_over_what_was_scored(judging, tmp_path):
    low = GOOD_JSON.replace("5", "1")
    found = judging.metrics(judging.run(usability(judging.judge(GOOD_JSON, low, "nonsense")), ["A.", "B.", "C."], tmp_path))
    assert {name: found[name]["mean"] for name in DIMENSIONS} == {
        "helpfulness": 3.0,
        "clarity": 4.0,
        "factuality": 3.0,
        "depth": 2.0,
        "engagement": 1.0,
    }
    assert found["unscored"]["mogu/total"] == 1.0


def test_of_a_conversation_the_last_reply_is_judged_with_all_turns_before_it(judging, tmp_path):
    seen: list[str] = []
    samples = [Sample(input="Name a river.", metadata={"request": "Name a river."})]
    judging.run(
        usability(judging.listening(GOOD_JSON, seen)), ["The Elbe.", "The Müritz."], tmp_path, samples=samples, later=["And a lake?"]
    )
    shown = re.search(r"<conversation>\n(.*)\n</conversation>\n\n<reply>\n(.*)\n</reply>", seen[0], re.DOTALL)
    assert shown[1] == "user: Name a river.\n\nassistant: The Elbe.\n\nuser: And a lake?"
    assert shown[2] == "The Müritz."


def two_turns(judging, judge: Model, replies: list[str], tmp_path: Path, **options: Any) -> tuple[list[Any], dict[str, dict[str, float]]]:
    """The values and the metrics of conversations of two turns."""
    samples = [Sample(input="Name a river.", id=number) for number in range(len(replies) // 2)]
    log = judging.run(usability_by_turn(judge, **options), replies, tmp_path, samples=samples, later=["And a lake?"])
    return judging.values(log), judging.metrics(log)


REPLIES = ["The Elbe.", "The Müritz."]


def test_each_turn_is_rated_by_itself_and_the_mean_is_of_both(judging, tmp_path):
    first, second = GOOD_JSON, GOOD_JSON.replace("5", "2")
    [value], found = two_turns(judging, judging.judge(first, second), REPLIES, tmp_path)
    assert (value["helpfulness, turn=1"], value["helpfulness, turn=2"], value["helpfulness"]) == (5, 2, 3.5)
    assert {name: value[name] for name in DIMENSIONS if name != "helpfulness"} == {
        "clarity": 4,
        "factuality": 3,
        "depth": 2,
        "engagement": 1,
    }
    assert [found[name]["mean"] for name in ("helpfulness, turn=1", "helpfulness, turn=2", "helpfulness")] == [5, 2, 3.5]
    assert [found[f"unscored, turn={turn}"]["mogu/total"] for turn in (1, 2)] == [0, 0]


def test_a_turn_is_shown_without_what_came_after_it(judging, tmp_path):
    seen: list[str] = []
    two_turns(judging, judging.listening(GOOD_JSON, seen), REPLIES, tmp_path)
    assert "<conversation>\nName a river.\n</conversation>\n\n<reply>\nThe Elbe.\n</reply>" in seen[0]
    assert "lake" not in seen[0]
    assert "user: Name a river.\n\nassistant: The Elbe.\n\nuser: And a lake?\n</conversation>\n\n<reply>\nThe Müritz.\n</reply>" in seen[1]


@pytest.mark.parametrize("fault", ["nonsense", "refusal", "slow"])
def test_what_a_judge_leaves_out_is_unscored_in_that_turn_alone_and_never_a_value(judging, tmp_path, fault):
    # Two conversations; the judge fails in the second turn of the first.
    refusal = judging.said("", stop_reason="content_filter")
    answers = [GOOD_JSON, "I like it." if fault == "nonsense" else refusal, GOOD_JSON, GOOD_JSON.replace("5", "1")]
    rater = judging.slow_at(2, GOOD_JSON) if fault == "slow" else judging.judge(*answers)
    [first, second], found = two_turns(judging, rater, REPLIES * 2, tmp_path, timeout=1, retries=0)
    assert first["helpfulness, turn=1"] == 5
    assert math.isnan(first["helpfulness, turn=2"])
    assert math.isnan(first["helpfulness"])
    assert (first["unscored, turn=1"], first["unscored, turn=2"]) == (0, 1)
    assert found["helpfulness, turn=1"]["mean"] == 5
    assert found["helpfulness, turn=2"]["mean"] == second["helpfulness, turn=2"]
    assert found["helpfulness"]["mean"] == second["helpfulness"]
    assert found["unscored, turn=1"]["mogu/total"] == 0
    assert found["unscored, turn=2"] == {"mogu/total": 1, "mean": 0.5}


def test_a_turn_that_was_not_answered_is_unscored_and_an_empty_reply_is_1(judging, tmp_path):
    samples = [Sample(input="Name a river.")]
    [value] = judging.values(judging.run(usability_by_turn(judging.always(GOOD_JSON)), ["The Elbe."], tmp_path / "one", samples=samples))
    assert (value["helpfulness, turn=1"], value["unscored, turn=2"]) == (5, 1)
    assert math.isnan(value["helpfulness, turn=2"])
    [value], _ = two_turns(judging, judging.always(GOOD_JSON), ["The Elbe.", " "], tmp_path / "two")
    assert (value["helpfulness, turn=1"], value["helpfulness, turn=2"], value["helpfulness"]) == (5, 1, 3)
