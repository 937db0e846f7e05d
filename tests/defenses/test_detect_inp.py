"""The classifier in front of the model: the lab's detector, classifiers from a folder, and the order of the replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mogu.analysis.detector import Detector, last_token_states
from mogu.analysis.linear_head import LinearHead
from mogu.defenses import REFUSAL, TargetModel, make_defense
from mogu.defenses.detect_inp import malicious_label_id
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import as_conversation, encode_prompt
from mogu.inference.replies import ReplySettings
from mogu.lab import prompts

SAFE, UNSAFE = {"id2label": {0: "safe", 1: "unsafe"}}, {"id2label": {0: "Unsafe", 1: "Safe"}}


def write_classifier(folder: Path, tokenizer: PreTrainedTokenizerFast, scores: dict[str, float], **config: Any) -> str:
    """Write a classifier whose logits depend on the last letter alone: 0 for the first label and ``scores`` for the last."""
    size = len(tokenizer)
    labels = len(config.get("id2label", {0: "", 1: ""}))
    settings = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=0,
        max_position_embeddings=512,
        **{"num_labels": labels} | config,
    )
    model = LlamaForSequenceClassification(settings)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.score.weight.zero_()
        for letter, value in scores.items():  # a row of the identity leaves the norm as the square root of its size
            model.score.weight[-1, tokenizer.convert_tokens_to_ids(letter)] = value / size**0.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def letters_target(make_chained_target: Callable[[Mapping[str, str]], TargetModel]) -> TargetModel:
    return make_chained_target({"a": "b", "c": "d", "x": "y", "z": "Z"})


def test_replies_come_in_the_order_of_the_prompts(letters_target: TargetModel, tmp_path: Path) -> None:
    """This classifier finds prompts that end in x or z malicious: its logits are 0 and 2, or 0 and 1."""
    source = write_classifier(tmp_path, letters_target.tokenizer, {"x": 2.0, "z": 1.0, "a": -1.0, "c": -0.5}, **SAFE)
    ready = make_defense("detect_inp", letters_target, classifier=source)
    replies = ready.reply([as_conversation(text) for text in ("oh x", "a", "c", "to z", "my a")], ReplySettings(3))
    assert [reply.text for reply in replies] == [REFUSAL, "b", "d", REFUSAL, "b"]
    assert [reply.intervened for reply in replies] == [True, False, False, True, False]
    expected = [torch.tensor(value).sigmoid().item() for value in (2.0, -1.0, -0.5, 1.0, -1.0)]
    assert [reply.details["score"] for reply in replies] == pytest.approx(expected, abs=1e-5)


def test_a_score_at_the_threshold_is_refused(letters_target: TargetModel, tmp_path: Path) -> None:
    """x scores σ(2) = 0.88; a, whose logits are equal, scores 0.5."""
    source = write_classifier(tmp_path, letters_target.tokenizer, {"x": 2.0}, **SAFE)
    texts = {}
    for threshold in (0.0, 0.5, 0.51, 0.9, 1.0):
        ready = make_defense("detect_inp", letters_target, classifier=source, threshold=threshold)
        texts[threshold] = [reply.text for reply in ready.reply([as_conversation("x"), as_conversation("a")], ReplySettings(3))]
    assert texts == {0.0: [REFUSAL, REFUSAL], 0.5: [REFUSAL, REFUSAL], 0.51: [REFUSAL, "b"], 0.9: ["y", "b"], 1.0: ["y", "b"]}


def test_only_user_messages_are_classified(letters_target: TargetModel, tmp_path: Path) -> None:
    """The classifier reads the last letter of the user messages, not of the turns around them."""
    source = write_classifier(tmp_path, letters_target.tokenizer, {"x": 2.0, "a": -1.0, "b": 9.0}, **SAFE)
    ready = make_defense("detect_inp", letters_target, classifier=source)
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]
    prefilled = [{"role": "system", "content": "b"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]
    replies = ready.reply([talk, prefilled], ReplySettings(3))
    assert [reply.text for reply in replies] == ["b", REFUSAL]


@pytest.mark.parametrize(
    ("config", "options", "score"),
    [
        (UNSAFE, {}, 1 - 0.880797),  # the first label is the malicious one
        (UNSAFE, {"malicious_label": "safe"}, 0.880797),
        ({}, {}, 0.880797),  # LABEL_1 of two
        ({"id2label": {0: "score"}}, {}, 0.880797),  # one logit: its sigmoid
        ({**SAFE, "problem_type": "multi_label_classification"}, {}, 0.880797),
    ],
)
def test_the_malicious_label_is_found(
    config: dict[str, Any], options: dict[str, Any], score: float, letters_target: TargetModel, tmp_path: Path
) -> None:
    source = write_classifier(tmp_path, letters_target.tokenizer, {"x": 2.0}, **config)
    (reply,) = make_defense("detect_inp", letters_target, classifier=source, **options).reply([as_conversation("x")], ReplySettings(3))
    assert reply.details["score"] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "label_id"),
    [
        (["not_harmful", "harmful"], 1),
        (["toxic", "non-toxic"], 0),
        (["SAFE", "INJECTION"], 1),
        (["benign", "jailbreak"], 1),
        (["unharmful", "harmful_request"], 1),
    ],
)
def test_labels_are_distinguished_from_their_opposites(labels: list[str], label_id: int) -> None:
    assert malicious_label_id("model", dict(enumerate(labels)), None) == label_id


@pytest.mark.parametrize(
    ("labels", "malicious_label"), [(["toxic", "unsafe"], None), (["good", "bad"], None), (["safe", "unsafe"], "evil")]
)
def test_an_ambiguous_label_must_be_named(labels: list[str], malicious_label: str | None) -> None:
    with pytest.raises(ConfigError, match="malicious_label") as caught:
        malicious_label_id("model", dict(enumerate(labels)), malicious_label)
    assert labels[0] in str(caught.value)


def test_a_classifier_costs_one_pass(letters_target: TargetModel, tmp_path: Path) -> None:
    source = write_classifier(tmp_path, letters_target.tokenizer, {"x": 2.0, "a": -1.0}, **SAFE)
    replies = make_defense("detect_inp", letters_target, classifier=source).reply(
        [as_conversation("x"), as_conversation("xa")], ReplySettings(3)
    )
    # The classifier reads both texts, 2 tokens wide; the base model reads "<s>xa", then "b", which ends the reply.
    assert sum(reply.cost.passes for reply in replies) == 1 + 2
    assert sum(reply.cost.tokens for reply in replies) == 4 + 3 + 1


def test_a_missing_classifier_is_named(lab_target: TargetModel, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="classifier"):
        make_defense("detect_inp", lab_target, classifier=str(tmp_path / "nowhere"))


def test_the_lab_detector_classifies_unseen_prompts(lab_target: TargetModel) -> None:
    """It is trained on 40 records of each label; the dev split shares no topic and no template with them."""
    asked = [prompt for prompt in prompts("dev") if prompt.category in ("benign", "malicious", "malicious_wrapped")]
    replies = make_defense("detect_inp", lab_target).reply([as_conversation(prompt.instruction) for prompt in asked], ReplySettings(1))
    right = [reply.intervened == prompt.category.startswith("malicious") for prompt, reply in zip(asked, replies, strict=True)]
    assert sum(right) / len(right) >= 0.95


def test_states_do_not_depend_on_padding(lab_target: TargetModel) -> None:
    encoded = [encode_prompt(lab_target.tokenizer, prompt.instruction) for prompt in prompts("dev")[10:300:40]]
    together = last_token_states(lab_target.base, encoded, 0)
    for index, prompt in enumerate(encoded):
        with torch.no_grad():
            states = lab_target.base(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(together[:, index], torch.stack([layer[0, -1] for layer in states]), rtol=1e-4, atol=1e-4)


def test_a_detector_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Detector(2, LinearHead((0.1, -1e-9, 3.0), -0.25))
    written.save(tmp_path / "detector.json", accuracy=0.5)
    assert Detector.load(tmp_path / "detector.json") == written


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"format": 2, "layer": 1, "weights": [1.0], "bias": 0}),
        json.dumps({"format": 1, "layer": 1, "weights": [float("nan")], "bias": 0}),
        json.dumps({"format": 1, "layer": -1, "weights": [1.0], "bias": 0}),
        json.dumps({"format": 1, "weights": [1.0], "bias": 0}),
        json.dumps({"format": 1, "layer": 1, "weights": ["x"], "bias": 0}),
        json.dumps({"format": 1, "layer": 1, "weights": 3, "bias": 0}),
    ],
)
def test_a_broken_detector_is_refused(content: str, lab_target: TargetModel, tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"detector\.json"):
        make_defense("detect_inp", TargetModel(lab_target.base, lab_target.tokenizer, baselines=tmp_path))


@pytest.mark.parametrize(("layer", "width"), [(2, 3), (99, 128)])
def test_another_models_detector_is_refused(layer: int, width: int, lab_target: TargetModel, tmp_path: Path) -> None:
    Detector(layer, LinearHead((0.0,) * width, 0.0)).save(tmp_path / "detector.json")
    ready = make_defense("detect_inp", TargetModel(lab_target.base, lab_target.tokenizer, baselines=tmp_path))
    with pytest.raises(ModelFileError, match="trained on this base model"):
        ready.reply([as_conversation("Hello")], ReplySettings(2))
