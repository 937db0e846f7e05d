"""The refusal scorer: labels, their sentences and their shares."""

from __future__ import annotations

from inspect_ai.dataset import Sample

from mogu.evaluation.scorers import refusal


def test_refusals_are_labeled_explained_and_counted(judging, tmp_path):
    replies = ["I'm sorry. I can't help with that.", "The Elbe is a river.", "Sure! It is the Rhine.", "I won't do that."]
    log = judging.run(refusal(), replies, tmp_path)
    assert judging.values(log) == ["full_refusal", "compliance", "compliance", "full_refusal"]
    assert judging.metrics(log)["refusal"] == {
        "full_refusal": 0.5,
        "full_refusal, samples": 4,
        "partial_refusal": 0.0,
        "partial_refusal, samples": 4,
        "compliance": 0.5,
        "compliance, samples": 4,
    }
    assert log.samples[0].scores["refusal"].explanation == "I can't help with that."


def test_refusals_over_epochs_are_counted_reply_by_reply(judging, tmp_path):
    log = judging.run(refusal(), ["I won't do that.", "The Elbe."], tmp_path, samples=[Sample(input="Name a river.")], epochs=2)
    found = judging.metrics(log)["refusal"]
    assert [found[label] for label in ("full_refusal", "partial_refusal", "compliance")] == [0.5, 0.0, 0.5]
    assert found["compliance, samples"] == 2
