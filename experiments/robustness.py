"""How far a robustness map can be relied on, on the lab's base model: ``python -m experiments.robustness``; some ten minutes.

Prints rank correlations over modules (Spearman's):

- of each way to say how much a proxy suffers, between maps of three draws and maps of three others;
- of each way with what really changes: the mean absolute change of the tendency of the lab's dev prompts under the same noise;
- of the map with itself under other seeds, other strengths and in bfloat16, and how much of the robust subset stays.
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

from mogu.analysis.answer_openings import Openings
from mogu.analysis.robustness import measure_robustness, search_subset
from mogu.analysis.robustness.map import STRENGTH, linear_modules, proxy_of
from mogu.analysis.robustness.noise import perturbed
from mogu.analysis.robustness.proxy import Prompts, security_features
from mogu.analysis.tendency import Questions, leanings
from mogu.hub import load_base, load_tokenizer
from mogu.lab import build_base, prompts, records

Numbers = NDArray[np.float64]
DRAWS = 6
STRENGTHS = (0.1, 0.3, 3.0)  # beside the default
SEEDS = (0, 1, 2, 3, 4)


def by_label(numbers: Numbers, truth: NDArray[np.bool_]) -> float:
    return float((numbers[truth].mean() + numbers[~truth].mean()) / 2)


def suffered(intact: Numbers, now: Numbers, truth: NDArray[np.bool_]) -> dict[str, float]:
    """What noise did to the held-out prompts' signed distances, said in several ways; squares are averaged over draws as they are."""
    own, own_now = np.where(truth, intact, -intact), np.where(truth, now, -now)
    return {
        "drop (squared change)": by_label((now - intact) ** 2, truth),
        "margin lost, gains not counted": by_label(np.maximum(0, own - own_now), truth),
        "mean margin lost": by_label(own - own_now, truth),
        "cross-entropy gained": by_label(np.logaddexp(0, -own_now) - np.logaddexp(0, -own), truth),
        "accuracy lost": by_label(own > 0, truth) - by_label(own_now > 0, truth),
        "AUROC lost": float(roc_auc_score(truth, intact) - roc_auc_score(truth, now)),
    }


def tendencies(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Callable[[], Numbers]:
    """A function that measures the tendency of 30 benign and 30 malicious dev prompts in the model as it is."""
    bank = Openings()
    maker, affirming = Questions(tokenizer, bank), len(bank.affirm)
    chosen = [one for category in ("benign", "malicious") for one in [p for p in prompts("dev") if p.category == category][:30]]
    questions = [maker.of(one.instruction) for one in chosen]

    def measure() -> Numbers:
        found = {place: values for batch in leanings(model, questions, batch_size=15) for place, values in batch.items()}
        rows = np.array([found[place] for place in range(len(questions))])
        return np.asarray(rows[:, :affirming].mean(1) - rows[:, affirming:].mean(1))

    return measure


def rank_correlation(one: Sequence[float] | Numbers, other: Sequence[float] | Numbers) -> float:
    return float(spearmanr(one, other).statistic) if len(set(one)) > 1 and len(set(other)) > 1 else float("nan")


def compare_ways(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    given = Prompts.of(model, tokenizer, records("train"), system_prompt=None, batch_size=32)
    proxy = proxy_of(model, given, 0, lambda what, done, total: None)
    truth, intact = proxy.held_out.malicious.numpy(), proxy.sides.numpy()
    measure = tendencies(model, tokenizer)
    before = measure()
    ways: dict[str, list[list[float]]] = {}
    changes: list[float] = []
    for _, module in linear_modules(model):
        found, changed = [], []
        for draw in range(DRAWS):
            with perturbed([module], strength=STRENGTH, seed=0, draw=draw):
                now = proxy.plane.decision_function(security_features(model, proxy.head, proxy.held_out).numpy())
                if draw < 3:
                    changed.append(float(np.abs(measure() - before).mean()))
            found.append(suffered(intact, now, truth))
        for way in found[0]:
            ways.setdefault(way, []).append([one[way] for one in found])
        changes.append(float(np.mean(changed)))
    print("| measure | three draws against three others | with the change of tendency |\n|---|---|---|")
    for way, table in ways.items():
        drawn = np.array(table)  # [modules, draws]
        halves = [set(half) for half in combinations(range(DRAWS), DRAWS // 2) if 0 in half]
        alike = [rank_correlation(drawn[:, sorted(half)].mean(1), drawn[:, sorted(set(range(DRAWS)) - half)].mean(1)) for half in halves]
        print(f"| {way} | {np.mean(alike):.2f} | {rank_correlation(drawn[:, :3].mean(1), changes):.2f} |", flush=True)


def compare_maps(folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    given = records("train")

    def chart(dtype: torch.dtype, strength: float, seed: int) -> tuple[Numbers, set[str]]:
        model = load_base(folder, dtype=dtype)
        found = measure_robustness(model, tokenizer, given, strength=strength, seed=seed)
        robust = set(search_subset(model, tokenizer, given, found).names)
        drops = np.array([one.drop for one in found.modules])
        print(f"  {str(dtype).removeprefix('torch.')}, strength {strength:g}, seed {seed}: AUROC {found.auroc:.3f}", end=", ")
        print(f"drops {drops.min():.4f} to {drops.max():.4f}, together {found.together:.3f}", end=" ")
        print(f"(root of squares {np.sqrt((drops**2).sum()):.3f}), {len(robust)} modules robust", flush=True)
        return drops, robust

    def against(one: tuple[Numbers, set[str]], other: tuple[Numbers, set[str]]) -> tuple[float, float]:
        return rank_correlation(one[0], other[0]), len(one[1] & other[1]) / len(one[1] | other[1])

    print("rank correlation of the drops, and share of modules robust in either map that are robust in both:")
    seeds = {seed: chart(torch.float32, STRENGTH, seed) for seed in SEEDS}
    pairs = np.array([against(seeds[one], seeds[other]) for one, other in combinations(SEEDS, 2)])
    means, lowest = pairs.mean(0), pairs.min(0)
    print(f"seeds {SEEDS}: {means[0]:.2f} (lowest {lowest[0]:.2f}), {means[1]:.2f} (lowest {lowest[1]:.2f})")
    always, ever = set.intersection(*[robust for _, robust in seeds.values()]), set.union(*[robust for _, robust in seeds.values()])
    print(f"robust under every seed: {len(always)}, under any: {len(ever)}; in dispute: {sorted(ever - always)}")
    for strength in STRENGTHS:
        print(
            "strength {:g} against {:g}: {:.2f}, {:.2f}".format(strength, STRENGTH, *against(chart(torch.float32, strength, 0), seeds[0]))
        )
    print("bfloat16 against float32: {:.2f}, {:.2f}".format(*against(chart(torch.bfloat16, STRENGTH, 0), seeds[0])))


def main() -> None:
    folder = str(build_base())
    tokenizer = load_tokenizer(folder)
    compare_ways(load_base(folder).eval(), tokenizer)
    compare_maps(folder, tokenizer)


if __name__ == "__main__":
    main()
