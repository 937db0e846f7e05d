"""Correlations against scipy's own, on cells written here."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from mogu.errors import DataError
from mogu.evaluation.correlation import read_compared
from mogu.evaluation.intervals import spearman


def cell(folder: Path, seed: int, defense: str, replies: list[dict[str, Any]]) -> None:
    file = folder / "cells" / "data" / f"seed-{seed}" / f"{defense}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"replies": replies}))


def reply(id: str, complied: bool, **details: float) -> dict[str, Any]:
    return {"id": id, "outcome": "complied" if complied else "refused", "details": details}


def test_spearman_is_scipys_and_its_interval_holds_the_truth() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=300)
    for y in (x + random.normal(size=300), (x + random.normal(size=300) > 0.4).astype(float), np.round(-x)):
        found = spearman(x, y)
        assert found.value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        # Fisher's interval, which holds for continuous values, to two hundredths
        z, wide = np.arctanh(found.value), 1.96 * np.sqrt((1 + found.value**2 / 2) / (300 - 3))
        if len(set(y)) == 300:
            assert (found.low, found.high) == pytest.approx((np.tanh(z - wide), np.tanh(z + wide)), abs=0.02)
        assert found.low < found.value < found.high
        assert (found.n, found.method) == (300, "bootstrap")


def test_nothing_that_never_varies_is_correlated() -> None:
    found = spearman([1, 2, 3, 4], [1, 1, 1, 1])
    assert np.isnan(found.value)
    assert (found.low, found.high, found.n) == (-1, 1, 4)


def test_correlations_by_measure_and_category(tmp_path: Path) -> None:
    rng = random.Random(5)
    labels = ["malicious"] * 20 + ["malicious_wrapped"] * 20 + ["benign"] * 20
    tendencies = [(f"p{place}", label, rng.random()) for place, label in enumerate(labels)]
    bare = {id: rng.random() < 0.5 for id, _, _ in tendencies}
    routed = [{id: rng.random() < 0.3 for id, _, _ in tendencies} for _ in range(2)]
    scores = {id: rng.random() for id, _, _ in tendencies}
    cell(tmp_path, 0, "none", [reply(id, value) for id, value in bare.items()] + [reply("other", True)])
    for seed in (0, 1):
        cell(tmp_path, seed, "mogu", [reply(id, value, score=scores[id]) for id, value in routed[seed].items()])

    ids = [id for id, _, _ in tendencies]
    told = {(one.measure, one.defense, one.category): one for one in read_compared(tmp_path, ids).correlations(tendencies)}
    kinds = ("all_malicious", "malicious", "malicious_wrapped")
    assert set(told) == {("attack_success", defense, kind) for defense in ("none", "mogu") for kind in kinds} | {
        ("score", "mogu", kind) for kind in ("all", "benign", "malicious", "malicious_wrapped")
    }
    success = {"none": bare, "mogu": {id: (routed[0][id] + routed[1][id]) / 2 for id in ids}}
    for (measure, defense, kind), one in told.items():
        rows = [row for row in tendencies if kind in ("all", row[1]) or (kind == "all_malicious" and row[1] != "benign")]
        values = scores if measure == "score" else success[defense]
        wanted = spearmanr([row[2] for row in rows], [float(values[row[0]]) for row in rows]).statistic
        assert one.estimate.value == pytest.approx(wanted, abs=1e-12)
        assert one.as_json()["n"] == len(rows)


def test_no_nan_in_json(tmp_path: Path) -> None:
    cell(tmp_path, 0, "none", [reply(str(place), True) for place in range(4)])
    [one] = read_compared(tmp_path, list("0123")).correlations([(str(place), "malicious", float(place)) for place in range(4)])
    assert one.as_json()["value"] is None


def test_other_folders_and_other_prompts_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no reply"):
        read_compared(tmp_path, ["a"])
    cell(tmp_path, 0, "none", [reply("b", True)])
    with pytest.raises(DataError, match="holds no reply"):
        read_compared(tmp_path, ["a"])
    (tmp_path / "cells" / "data" / "seed-0" / "mogu.json").write_text('{"replies": [{"id": "a"}]}')
    with pytest.raises(DataError, match=r"mogu\.json is no cell"):
        read_compared(tmp_path, ["b"])
