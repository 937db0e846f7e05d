"""Measure how reliable a robustness map is, on the lab's base model; takes about ten minutes.

    python -m experiments.robustness

Prints rank correlations over modules (Spearman's):

- of each measure of the proxy's loss, between maps of three draws and maps of three others;
- of each measure with the actual effect: the mean absolute change of the tendency of the lab's dev prompts under the same noise;
- of the map with itself under other seeds, other strengths and in bfloat16, and how much of the robust subset stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.answer_openings import AnswerOpenings
from mogu.analysis.robustness import measure_robustness, search_subset
from mogu.analysis.robustness.map import STRENGTH, linear_modules, proxy_of
from mogu.analysis.robustness.noise import perturbed
from mogu.analysis.robustness.proxy import LabeledPrompts, security_features
from mogu.analysis.tendency import OpeningEncoder, measure_openings
from mogu.hub import load_base, load_tokenizer
from mogu.lab import build_base, prompts, records

Values = NDArray[np.float64]
DRAWS = 6
STRENGTHS = (0.1, 0.3, 3.0)  # besides the default
SEEDS = (0, 1, 2, 3, 4)


def balanced_mean(values: Values, truth: NDArray[np.bool_]) -> float:
    return float((values[truth].mean() + values[~truth].mean()) / 2)


def losses(intact: Values, noisy: Values, truth: NDArray[np.bool_]) -> dict[str, float]:
    """Measure in several ways what noise did to the held-out prompts' signed distances; squares are averaged over draws as they are."""
    own, own_noisy = np.where(truth, intact, -intact), np.where(truth, noisy, -noisy)
    return {
        "drop (squared change)": balanced_mean((noisy - intact) ** 2, truth),
        "margin lost, gains not counted": balanced_mean(np.maximum(0, own - own_noisy), truth),
        "mean margin lost": balanced_mean(own - own_noisy, truth),
        "cross-entropy gained": balanced_mean(np.logaddexp(0, -own_noisy) - np.logaddexp(0, -own), truth),
        "accuracy lost": balanced_mean(own > 0, truth) - balanced_mean(own_noisy > 0, truth),
        "AUROC lost": float(roc_auc_score(truth, intact) - roc_auc_score(truth, noisy)),
    }


def tendencies(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Callable[[], Values]:
    """Return a function that measures the tendency of 30 benign and 30 malicious dev prompts in the model as it is."""
    openings = AnswerOpenings()
    encoder, affirming = OpeningEncoder(tokenizer, openings), len(openings.affirm)
    by_category = [[prompt for prompt in prompts("dev") if prompt.category == category][:30] for category in ("benign", "malicious")]
    encoded = [encoder.encode(prompt.instruction) for chosen in by_category for prompt in chosen]

    def measure() -> Values:
        values_of = {index: values for batch in measure_openings(model, encoded, batch_size=15) for index, values in batch.items()}
        rows = np.array([values_of[index] for index in range(len(encoded))])
        return np.asarray(rows[:, :affirming].mean(1) - rows[:, affirming:].mean(1))

    return measure


def rank_correlation(first: Sequence[float] | Values, second: Sequence[float] | Values) -> float:
    return float(spearmanr(first, second).statistic) if len(set(first)) > 1 and len(set(second)) > 1 else float("nan")


def compare_measures(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    labeled = LabeledPrompts.of(model, tokenizer, records("train"), system_prompt=None, batch_size=32)
    proxy = proxy_of(model, labeled, 0, lambda step, done, total: None)
    truth, intact = proxy.held_out.malicious.numpy(), proxy.distances.numpy()
    measure_tendencies = tendencies(model, tokenizer)
    intact_tendencies = measure_tendencies()
    losses_by_measure: dict[str, list[list[float]]] = {}
    tendency_changes: list[float] = []
    for _, module in linear_modules(model):
        by_draw, changes = [], []
        for draw in range(DRAWS):
            with perturbed([module], strength=STRENGTH, seed=0, draw=draw):
                noisy = proxy.classifier.decision_function(security_features(model, proxy.head, proxy.held_out).numpy())
                if draw < 3:
                    changes.append(float(np.abs(measure_tendencies() - intact_tendencies).mean()))
            by_draw.append(losses(intact, noisy, truth))
        for name in by_draw[0]:
            losses_by_measure.setdefault(name, []).append([measured[name] for measured in by_draw])
        tendency_changes.append(float(np.mean(changes)))
    print("| measure | three draws against three others | with the change of tendency |\n|---|---|---|")
    for name, table in losses_by_measure.items():
        values = np.array(table)  # [modules, draws]
        halves = [set(half) for half in combinations(range(DRAWS), DRAWS // 2) if 0 in half]
        alike = [rank_correlation(values[:, sorted(half)].mean(1), values[:, sorted(set(range(DRAWS)) - half)].mean(1)) for half in halves]
        print(f"| {name} | {np.mean(alike):.2f} | {rank_correlation(values[:, :3].mean(1), tendency_changes):.2f} |", flush=True)


def compare_maps(folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = records("train")

    def measure(dtype: torch.dtype, strength: float, seed: int) -> tuple[Values, set[str]]:
        model = load_base(folder, dtype=dtype)
        robustness = measure_robustness(model, tokenizer, pairs, strength=strength, seed=seed)
        robust = set(search_subset(model, tokenizer, pairs, robustness).names)
        drops = np.array([module.drop for module in robustness.modules])
        print(f"  {str(dtype).removeprefix('torch.')}, strength {strength:g}, seed {seed}: AUROC {robustness.auroc:.3f}", end=", ")
        print(f"drops {drops.min():.4f} to {drops.max():.4f}, together {robustness.together:.3f}", end=" ")
        print(f"(root of squares {np.sqrt((drops**2).sum()):.3f}), {len(robust)} modules robust", flush=True)
        return drops, robust

    def agreement(first: tuple[Values, set[str]], second: tuple[Values, set[str]]) -> tuple[float, float]:
        return rank_correlation(first[0], second[0]), len(first[1] & second[1]) / len(first[1] | second[1])

    print("rank correlation of the drops, and share of modules robust in either map that are robust in both:")
    maps = {seed: measure(torch.float32, STRENGTH, seed) for seed in SEEDS}
    agreements = np.array([agreement(maps[first], maps[second]) for first, second in combinations(SEEDS, 2)])
    means, lowest = agreements.mean(0), agreements.min(0)
    print(f"seeds {SEEDS}: {means[0]:.2f} (lowest {lowest[0]:.2f}), {means[1]:.2f} (lowest {lowest[1]:.2f})")
    always, ever = set.intersection(*[robust for _, robust in maps.values()]), set.union(*[robust for _, robust in maps.values()])
    print(f"robust under every seed: {len(always)}, under any: {len(ever)}; in dispute: {sorted(ever - always)}")
    for strength in STRENGTHS:
        print(
            "strength {:g} against {:g}: {:.2f}, {:.2f}".format(
                strength, STRENGTH, *agreement(measure(torch.float32, strength, 0), maps[0])
            )
        )
    print("bfloat16 against float32: {:.2f}, {:.2f}".format(*agreement(measure(torch.bfloat16, STRENGTH, 0), maps[0])))


def main() -> None:
    folder = str(build_base())
    tokenizer = load_tokenizer(folder)
    compare_measures(load_base(folder).eval(), tokenizer)
    compare_maps(folder, tokenizer)


if __name__ == "__main__":
    main()
