"""The robustness map and the robust subset, held against drops that are written down term by term and computed in float64."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import Robustness, RobustnessMap, chart_robustness, measure_robustness, search_subset
from mogu.data import Record
from mogu.errors import ArchitectureError, ConfigError, DataError, MoguError

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
        Record(id=str(place), label=label, instruction=word, affirm="Yes", reject="No")
        for place, (label, word) in enumerate(zip(labels, words, strict=True))
    ]


RECORDS = some_records()


class ByHand:
    """The proxy and its drops, one prompt a pass, with no padding, in float64."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> None:
        self.model, self.seed = copy.deepcopy(model), seed
        self.prompts = [tokenizer(f"<s><user>{record.instruction}<assistant>")["input_ids"] for record in RECORDS]
        truth = np.array([record.label == "malicious" for record in RECORDS])
        fitted, self.held_out = train_test_split(np.arange(len(truth)), test_size=0.5, stratify=truth, random_state=seed)
        features = self.features(range(len(truth)))
        self.scaler = StandardScaler().fit(features[fitted])
        self.plane = LogisticRegression(C=0.1, max_iter=1000).fit(self.scaler.transform(features[fitted]), truth[fitted])
        self.truth, self.intact = truth[self.held_out], self.sides(features[self.held_out])
        self.margin = (self.intact[self.truth].mean() - self.intact[~self.truth].mean()) / 2

    @torch.no_grad()
    def features(self, places: Sequence[int]) -> np.ndarray:
        ids = [torch.tensor([self.prompts[place]]) for place in places]
        return np.stack([self.model(input_ids=one, output_hidden_states=True).hidden_states[-1][0, -1].numpy() for one in ids])

    def sides(self, features: np.ndarray) -> np.ndarray:
        return self.scaler.transform(features) @ self.plane.coef_[0] + self.plane.intercept_[0]

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
            moved = (self.sides(self.features(self.held_out)) - self.intact) ** 2
            squares.append((moved[self.truth].mean() + moved[~self.truth].mean()) / 2)
            for name, weight in kept.items():
                self.model.get_submodule(name).weight.data.copy_(weight)
        return float(np.sqrt(np.mean(squares)) / self.margin)


def by_name(found: RobustnessMap) -> dict[str, float]:
    return {one.name: one.drop for one in found.modules}


def same_weights(model: PreTrainedModel, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "paths"),
    [
        ("llama", LLAMA),
        ("gpt2", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),  # Conv1D
        ("falcon", ["self_attention.dense", "self_attention.query_key_value", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h"]),  # fused
    ],
)
def test_drops_are_those_written_down(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, family: str, paths: list[str]) -> None:
    model = make_base(family)
    found = measure_robustness(model, tokenizer, RECORDS, strength=0.7, draws=2, seed=3, batch_size=5)
    assert [(one.layer, one.module) for one in found.modules] == [(layer, path) for layer in range(3) for path in paths]
    hand = ByHand(model, tokenizer, seed=3)
    assert found.intact == pytest.approx(hand.margin, rel=1e-6)
    assert found.auroc == pytest.approx(roc_auc_score(hand.truth, hand.intact))
    assert found.prompts == {"benign": 16, "malicious": 20}
    for one in (found.modules[1], found.modules[len(paths) + 2], found.modules[-1]):
        assert one.drop == pytest.approx(hand.drop([one.name], strength=0.7, draws=2), rel=1e-5)
        assert one.drop > 0
        assert one.parameters == sum(parameter.numel() for parameter in model.get_submodule(one.name).parameters())
    assert found.together == pytest.approx(hand.drop([one.name for one in found.modules], strength=0.7, draws=2), rel=1e-5)


def test_a_picture_tower_is_no_decoder(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    found = measure_robustness(make_base("gemma3"), tokenizer, RECORDS, draws=1)
    assert [one.module for one in found.modules] == LLAMA * 3
    assert all("vision" not in one.name for one in found.modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_restored_bit_for_bit(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> None:
    model = make_base("llama", dtype).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure_robustness(model, tokenizer, RECORDS, draws=2)
    search_subset(model, tokenizer, RECORDS, found)
    assert same_weights(model, before)
    assert not model.training


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_in_the_middle_of_a_pass_leaves_the_weights(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, stop: type[BaseException]
) -> None:
    model = make_base("llama", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[bool] = []

    def interrupt(*_: object) -> None:
        if not same_weights(model, before):
            seen.append(True)
        if len(seen) == 4:
            raise stop

    model.get_input_embeddings().register_forward_hook(interrupt)
    with pytest.raises(stop):
        measure_robustness(model, tokenizer, RECORDS, draws=1, batch_size=20)
    assert len(seen) == 4
    assert same_weights(model, before)


def test_modules_without_influence_drop_nothing(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_base("llama")
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        mlp.down_proj.weight.zero_()  # what gate and up make of a prompt ends here
    drops = by_name(measure_robustness(model, tokenizer, RECORDS, draws=1))
    assert {name for name, drop in drops.items() if drop == 0} == {f"model.layers.1.{path}" for path in LLAMA[-3:]}


@pytest.fixture
def fragile(make_base: MakeBase) -> PreTrainedModel:
    """A model in which the labels reach the last token through the attention of layer 1, and hardly anything else does anything."""
    model = make_base("llama")
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.mul_(0.001)
            layer.self_attn.o_proj.weight.mul_(3 if number == 1 else 0.001)
    return model


FRAGILE = {f"model.layers.1.{path}" for path in LLAMA if "attn" in path}


def test_a_planted_fragile_layer_stands_out(fragile: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    found = measure_robustness(fragile, tokenizer, RECORDS)
    drops = by_name(found)
    assert set(sorted(drops, key=lambda name: -drops[name])[:4]) == FRAGILE
    assert min(drops[name] for name in FRAGILE) > 10 * max(drop for name, drop in drops.items() if name not in FRAGILE)
    assert list(search_subset(fragile, tokenizer, RECORDS, found, tolerance=0.2).names) == [name for name in drops if name not in FRAGILE]


@pytest.mark.parametrize("tolerance", [0.2, 0.6])
def test_the_subset_perturbed_together_is_within_the_tolerance(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, tolerance: float
) -> None:
    model = make_base("llama")
    found = measure_robustness(model, tokenizer, RECORDS, strength=0.3, draws=2)
    subset = search_subset(model, tokenizer, RECORDS, found, tolerance=tolerance)
    hand = ByHand(model, tokenizer)
    together = hand.drop(subset.names, strength=0.3, draws=2)
    assert 0 < len(subset.names) < len(found.modules)
    assert subset.drop == pytest.approx(together, rel=1e-5)
    assert together <= tolerance * found.together
    # Whatever came after the last module that was taken was tried with exactly this set, and was too much.
    order = sorted(found.modules, key=lambda one: one.drop)
    last = max(place for place, one in enumerate(order) if one.name in subset.names)
    for one in order[last + 1 :]:
        assert hand.drop([*subset.names, one.name], strength=0.3, draws=2) > tolerance * found.together
    assert list(subset.names) == [one.name for one in found.modules if one.name in subset.names]
    assert search_subset(model, tokenizer, RECORDS, found, tolerance=tolerance) == subset


def test_the_search_goes_on_after_a_module_that_does_not_fit(fragile: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    found = measure_robustness(fragile, tokenizer, RECORDS, draws=1)
    upside_down = tuple(dataclasses.replace(one, drop=1 / one.drop) for one in found.modules)
    assert set(search_subset(fragile, tokenizer, RECORDS, dataclasses.replace(found, modules=upside_down), tolerance=0.2).names) == {
        one.name for one in found.modules if one.name not in FRAGILE
    }


def test_a_map_of_another_model(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    found = measure_robustness(make_base("gpt2"), tokenizer, RECORDS, draws=1)
    with pytest.raises(ConfigError, match="The map has 12 modules, the model 21"):
        search_subset(make_base("llama"), tokenizer, RECORDS, found)


@pytest.fixture
def base(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    make_base("llama", torch.float32).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def wanted(base: Path, out: Path, **changes: object) -> Robustness:
    return dataclasses.replace(Robustness(str(base), RECORDS, out, draws=2), **changes)  # type: ignore[arg-type]


def kept(out: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (out / "measured.jsonl").read_text().splitlines()]


def test_a_stopped_run_goes_on_and_measures_nothing_twice(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("perturbing modules", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chart_robustness(wanted(base, out), progress=stop)
    assert {path.name for path in out.iterdir()} == {"measured.jsonl"}
    first = kept(out)
    assert len(first) == 10
    with (out / "measured.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # a kill in the middle of a line
    result = chart_robustness(wanted(base, out))
    assert kept(out)[:10] == first
    assert len(set(kept(out))) == len(kept(out))
    assert result == chart_robustness(wanted(base, tmp_path / "whole"))
    assert json.loads((out / "robustness.json").read_text()) == json.loads(json.dumps(result.as_json()))
    whole = kept(out)
    assert chart_robustness(wanted(base, out)) == result
    assert kept(out) == whole
    chart_robustness(wanted(base, out, draws=3))
    assert kept(out)[: len(whole)] == whole
    model = Path(base / "model.safetensors")
    model.write_bytes(model.read_bytes()[:-4] + b"\x00\x00\x80\x3e")  # one weight is another
    before = len(kept(out))
    chart_robustness(wanted(base, out, draws=1))
    assert len(kept(out)) > before + 21


def test_what_is_written(base: Path, tmp_path: Path) -> None:
    result = chart_robustness(wanted(base, tmp_path / "out", name="tiny", strength=0.5, tolerance=0.3))
    numbers = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert (numbers["format"], numbers["model"], numbers["base"]) == (1, "tiny", None)
    assert numbers["settings"] == {"strength": 0.5, "draws": 2, "seed": 0, "tolerance": 0.3, "system_prompt": None}
    assert [one["name"] for one in numbers["modules"] if one["robust"]] == numbers["subset"]["modules"] == list(result.subset.names)
    assert numbers["subset"]["parameters"] == sum(one["parameters"] for one in numbers["modules"] if one["robust"])
    assert numbers["subset"]["drop"] <= 0.3 * numbers["together"]
    assert (tmp_path / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"records": some_records(benign=9)}, DataError, "There are 9 benign prompts"),
        ({"records": some_records(malicious=0)}, DataError, "There are 0 malicious prompts"),
        (
            {"records": some_records(150, 150, shuffled=True)},
            MoguError,
            r"does not tell malicious prompts from .* is 0\.[45]\d\.",
        ),
        ({"strength": 0.0}, ConfigError, "The strength is 0"),
        ({"strength": float("nan")}, ConfigError, "The strength is nan"),
        ({"draws": 0}, ConfigError, "--draws is 0"),
        ({"batch_size": 0}, ConfigError, "--batch-size is 0"),
        ({"tolerance": 1.0}, ConfigError, "The tolerance is 1"),
        ({"base_model": "somewhere"}, ConfigError, "is no saved MoGU model"),
        ({"records": [*RECORDS, RECORDS[0].model_copy(update={"instruction": "a" * 80})]}, DataError, r"has 83 tokens.*at most 64"),
    ],
)
def test_bad_input_writes_nothing(base: Path, tmp_path: Path, changes: dict[str, object], error: type[MoguError], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        chart_robustness(wanted(base, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        chart_robustness(wanted(base, tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["kept.txt"]


def test_models_that_cannot_be_perturbed(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ArchitectureError, match="no linear layers in numbered decoder layers"):
        measure_robustness(make_base("llama", num_hidden_layers=0), tokenizer, RECORDS)
    model = make_base("llama")
    model.model.layers[2].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureError, match=r"layers\.2\.mlp\.up_proj is quantized"):
        measure_robustness(model, tokenizer, RECORDS)
    model.model.layers[2].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, device="meta"))
    with pytest.raises(ArchitectureError, match="kept outside memory"):
        measure_robustness(model, tokenizer, RECORDS)


def test_noise_that_leaves_no_numbers(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(MoguError, match="last hidden state is not finite, in float32"):
        measure_robustness(make_base("llama", torch.float32), tokenizer, RECORDS, strength=1e38)


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_what_the_extra_brings_is_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"is not installed.*mogu\[eval\]"):
        chart_robustness(wanted(Path("nowhere"), tmp_path / "out"))
