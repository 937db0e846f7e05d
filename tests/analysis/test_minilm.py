"""MiniLM's embeddings held against the graph run by hand, and the linear detector that reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mogu.analysis.detector_fit import fit_minilm_detector
from mogu.analysis.linear_head import LinearHead
from mogu.analysis.minilm import MAX_TOKENS, WIDTH, MiniLM, MinilmDetector
from mogu.data.starter import starter_instructions
from mogu.errors import ConfigError, ModelFileError
from mogu.hub.named_models import MINILM, MINILM_TOKENIZER
from mogu.hub.package_index import get_packaged_file

PAIRS = [
    ("How do I bake bread?", "What is the best way to make a loaf at home?"),
    ("The stock market fell sharply today.", "Share prices dropped a lot this afternoon."),
    ("Can I pick a lock without the key?", "Is there a way of opening a door when the key is lost?"),
    ("My cat will not eat its food.", "The kitten refuses every meal."),
]
TEXTS = [text for pair in PAIRS for text in pair]


def test_a_paraphrase_is_nearer_than_any_other_sentence(minilm: MiniLM) -> None:
    embeddings = minilm.embed(TEXTS)
    similarity = (embeddings @ embeddings.T).fill_diagonal_(-1)
    assert similarity.argmax(1).tolist() == [index ^ 1 for index in range(len(TEXTS))]


def test_an_embedding_is_the_mean_over_the_tokens_that_are_no_padding(minilm: MiniLM) -> None:
    """Here all texts share one padded batch, and the mask tells the sum, token by token, what to leave out."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(get_packaged_file(MINILM_TOKENIZER)))
    tokenizer.enable_padding(length=24)
    rows = tokenizer.encode_batch(TEXTS)
    ids, mask = (np.array([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask"))
    assert 0 < mask.mean() < 1
    session = onnxruntime.InferenceSession(str(get_packaged_file(MINILM)))
    (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    for text, row, kept in zip(TEXTS, states, mask, strict=True):
        total, count = np.zeros(WIDTH), 0
        for state, real in zip(row, kept, strict=True):
            if real:
                total, count = total + state.astype(np.float64), count + 1
        mean = total / count
        np.testing.assert_allclose(minilm.embed([text])[0].numpy(), mean / np.sqrt((mean**2).sum()), atol=1e-5)


def test_an_embedding_is_the_same_in_any_company(minilm: MiniLM) -> None:
    together = minilm.embed(TEXTS)
    assert together.shape == (len(TEXTS), WIDTH)
    assert all(torch.equal(minilm.embed([text])[0], row) for text, row in zip(TEXTS, together, strict=True))


def test_the_end_of_a_long_text_is_not_read(minilm: MiniLM) -> None:
    """ "word" is one token, and two of the tokens stand around the text."""
    room = "word " * (MAX_TOKENS - 2)
    full, more, less = minilm.embed([room, room + "and something about cats", room.removesuffix("word ") + "cats"])
    assert torch.equal(full, more)
    assert not torch.equal(full, less)


def test_a_file_that_onnxruntime_cannot_read_is_refused(minilm: MiniLM, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelFileError, match="MiniLM cannot be loaded"):
        MiniLM(tmp_path / "model.onnx", get_packaged_file(MINILM_TOKENIZER))


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime.*not installed.*mogu\[minilm\]"):
        MiniLM.load()


def test_the_detector_is_scikit_learns_regression_and_knows_topics_that_it_was_not_fitted_to(minilm: MiniLM) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    texts, labels = instructions("train", every=8)
    detector, about = fit_minilm_detector(minilm, texts, labels)
    scaler = StandardScaler()
    x = scaler.fit_transform(minilm.embed(texts).double().numpy())
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(x, labels).predict_proba(x)[:, 1]
    assert detector.scores(minilm, texts) == pytest.approx(expected.tolist(), abs=1e-3)
    assert (about["benign"], about["malicious"]) == (labels.count(False), labels.count(True))
    unseen, truth = instructions("dev", every=2)
    found = [score >= 0.5 for score in detector.scores(minilm, unseen)]
    assert np.mean(np.equal(found, truth)) >= 0.8


def instructions(split: str, *, every: int) -> tuple[list[str], list[bool]]:
    """Benign and malicious instructions of the starter set, some of each, and which are malicious."""
    kinds = {kind: starter_instructions(kind, split)[::every] for kind in ("benign", "malicious")}  # type: ignore[arg-type]
    found = [(instruction.text, kind == "malicious") for kind, chosen in kinds.items() for instruction in chosen]
    return [text for text, _ in found], [malicious for _, malicious in found]


HEAD = LinearHead((0.25, -1e-9, *[0.0] * (WIDTH - 2)), -0.5)


def test_a_detector_is_read_as_it_was_written(tmp_path: Path) -> None:
    MinilmDetector(HEAD).save(tmp_path / "minilm.json", accuracy=0.5)
    assert MinilmDetector.load(tmp_path / "minilm.json") == MinilmDetector(HEAD)
    assert json.loads((tmp_path / "minilm.json").read_text())["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "a format or a number"),
        ({"bias": float("inf")}, "a format or a number"),
        ({"weights": 3}, "cannot be read"),
        ({"bias": None}, "cannot be read"),
        ({"weights": [0.1] * 383}, "this MiniLM"),
        ({"embeddings": "of another file"}, "this MiniLM"),
    ],
)
def test_a_broken_or_foreign_detector_is_refused(change: dict[str, object], complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "minilm.json"
    MinilmDetector(HEAD).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelFileError, match=rf"minilm\.json.*{complaint}"):
        MinilmDetector.load(file)
