"""Records of two labels that a tiny model separates, a model whose safety depends on one layer, and drops computed term by term."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.data import Record

MakeBase = Callable[..., PreTrainedModel]


LLAMA = ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]


def some_records(benign: int = 16, malicious: int = 20, shuffled: bool = False) -> list[Record]:
    """Benign ones in small letters, malicious ones in capitals: invented words that mean nothing."""
    drawn = random.Random(0)
    labels = ["benign"] * benign + ["malicious"] * malicious
    letters = {"benign": "abcdefghijkl", "malicious": "ABCDEFGHIJKL"}
    words = ["".join(drawn.choices(letters[label], k=drawn.randint(8, 14))) for label in labels]
    if shuffled:
        drawn.shuffle(labels)
    return [
        Record(id=str(index), label=label, instruction=word, affirm="Yes", reject="No")
        for index, (label, word) in enumerate(zip(labels, words, strict=True))
    ]


class ByHand:
    """The proxy and its drops, one prompt a pass, with no padding, in float64."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, records: list[Record], seed: int = 0) -> None:
        self.model, self.seed = copy.deepcopy(model), seed
        self.prompts = [tokenizer(f"<s><user>{record.instruction}<assistant>")["input_ids"] for record in records]
        truth = np.array([record.label == "malicious" for record in records])
        fitted, self.held_out = train_test_split(np.arange(len(truth)), test_size=0.5, stratify=truth, random_state=seed)
        features = self.features(range(len(truth)))
        self.scaler = StandardScaler().fit(features[fitted])
        self.classifier = LogisticRegression(C=0.1, max_iter=1000).fit(self.scaler.transform(features[fitted]), truth[fitted])
        self.truth, self.intact = truth[self.held_out], self.distances(features[self.held_out])
        self.margin = (self.intact[self.truth].mean() - self.intact[~self.truth].mean()) / 2

    @torch.no_grad()
    def features(self, indices: Sequence[int]) -> np.ndarray:
        ids = [torch.tensor([self.prompts[index]]) for index in indices]
        return np.stack([self.model(input_ids=one, output_hidden_states=True).hidden_states[-1][0, -1].numpy() for one in ids])

    def distances(self, features: np.ndarray) -> np.ndarray:
        return self.scaler.transform(features) @ self.classifier.coef_[0] + self.classifier.intercept_[0]

    def drop(self, names: Sequence[str], *, strength: float, draws: int) -> float:
        squares = []
        for draw in range(draws):
            kept = {}
            for name in names:
                weight = self.model.get_submodule(name).weight.data
                kept[name] = weight.clone()
                number = int.from_bytes(hashlib.sha256(f"{self.seed} {draw} {name}".encode()).digest()[:7], "big")
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)).double()
                weight += strength * weight.square().sum().sqrt() * noise / noise.square().sum().sqrt()
            moved = (self.distances(self.features(self.held_out)) - self.intact) ** 2
            squares.append((moved[self.truth].mean() + moved[~self.truth].mean()) / 2)
            for name, weight in kept.items():
                self.model.get_submodule(name).weight.data.copy_(weight)
        return float(np.sqrt(np.mean(squares)) / self.margin)


@pytest.fixture
def make_records() -> Callable[..., list[Record]]:
    return some_records


@pytest.fixture
def word_records() -> list[Record]:
    return some_records()


@pytest.fixture
def by_hand(word_records: list[Record]) -> Callable[..., ByHand]:
    return lambda model, tokenizer, seed=0: ByHand(model, tokenizer, word_records, seed)


@pytest.fixture
def fragile(make_base: MakeBase) -> PreTrainedModel:
    """A model in which the labels reach the last token through the attention of layer 1, and hardly anything else does anything."""
    model = make_base("llama")
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.mul_(0.001)
            layer.self_attn.o_proj.weight.mul_(3 if number == 1 else 0.001)
    return model


@pytest.fixture
def fragile_names() -> set[str]:
    """The modules on which the safety of the fragile model depends."""
    return {f"model.layers.1.{path}" for path in LLAMA if "attn" in path}
