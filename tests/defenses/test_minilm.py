"""MiniLM with a linear head in front of the model: what it refuses, what it reads, and what it counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mogu.analysis.linear_head import LinearHead
from mogu.analysis.minilm import MiniLM, MinilmDetector
from mogu.defenses import REFUSAL, TargetModel, make_defense
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings

BREAD, CATS = "How do I bake a loaf of breaa", "My cat will not eat its fooc"  # the base model replies to the last letter


@pytest.fixture
def target(make_chained_target: Callable[[Mapping[str, str]], TargetModel], minilm: MiniLM, tmp_path: Path) -> TargetModel:
    """A target whose detector finds malicious what is about bread: the nearer a text is to one of them, the higher its score."""
    bread, cats = minilm.embed(["How do I bake bread?", "What do cats eat?"]).double()
    MinilmDetector(LinearHead(tuple((20 * (bread - cats)).tolist()), 0.0)).save(tmp_path / "minilm.json")
    plain = make_chained_target({"a": "b", "c": "d"})
    return TargetModel(plain.base, plain.tokenizer, baselines=tmp_path)


def test_what_scores_high_is_refused_and_the_base_model_answers_the_rest(target: TargetModel) -> None:
    replies = make_defense("minilm", target).reply([as_conversation(BREAD), as_conversation(CATS)], ReplySettings(3))
    assert [reply.text for reply in replies] == [REFUSAL, "d"]
    assert [reply.intervened for reply in replies] == [True, False]
    high, low = (reply.details["score"] for reply in replies)
    assert high > 0.9 > 0.1 > low
    (answered,) = make_defense("minilm", target, threshold=1.0).reply([as_conversation(BREAD)], ReplySettings(3))
    assert (answered.text, answered.details["score"]) == ("b", high)


def test_it_reads_what_the_user_says_and_nothing_else(target: TargetModel, minilm: MiniLM) -> None:
    talk = [
        {"role": "system", "content": BREAD},
        {"role": "user", "content": "What do cats eat?"},
        {"role": "assistant", "content": BREAD},
        {"role": "user", "content": CATS},
    ]
    (reply,) = make_defense("minilm", target).reply([talk], ReplySettings(3))
    detector = MinilmDetector.load(Path(str(target.baselines)) / "minilm.json")
    assert [reply.details["score"]] == detector.scores(minilm, [f"What do cats eat?\n\n{CATS}"])
    assert reply.text == "d"


def test_each_prompt_costs_a_pass_of_minilm(target: TargetModel, minilm: MiniLM) -> None:
    (refused,) = make_defense("minilm", target).reply([as_conversation(BREAD)], ReplySettings(3))
    (answered,) = make_defense("minilm", target).reply([as_conversation(CATS)], ReplySettings(3))
    read = {text: len(minilm._tokenizer.encode(text).ids) for text in (BREAD, CATS)}
    assert (refused.cost.passes, refused.cost.tokens) == (1, read[BREAD])
    # The base model reads "<s>" and every letter, then "d", which ends the reply.
    prompt = len(target.encode(as_conversation(CATS)))
    assert (answered.cost.passes, answered.cost.tokens) == (3, read[CATS] + prompt + 1)


def test_what_is_missing_is_named(target: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"minilm\.json is missing: no folder.*mogu compare"):
        make_defense("minilm", TargetModel(target.base, target.tokenizer))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime.*not installed.*mogu\[minilm\]"):
        make_defense("minilm", target)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}'])
def test_a_broken_part_is_refused(content: str, lab_target: TargetModel, tmp_path: Path) -> None:
    (tmp_path / "minilm.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"minilm\.json cannot be read"):
        make_defense("minilm", TargetModel(lab_target.base, lab_target.tokenizer, baselines=tmp_path))


def test_a_threshold_is_a_probability(target: TargetModel) -> None:
    with pytest.raises(ConfigError, match=r"minilm was given threshold=2"):
        make_defense("minilm", target, threshold=2)
