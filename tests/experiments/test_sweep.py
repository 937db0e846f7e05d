"""ML-LR's sweep and its settings: sets of one size, openings only among the data, and tables of what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.sweep import ARMS, FACTORS, SUBSETS, modules_of, sweep_plot, sweep_table, write_subset
from experiments.worlds import chats, with_malicious
from mogu.finetuning.robust_modules import read_robust_modules
from mogu.lab import records

DROPS = {f"m{number}": drop for number, drop in enumerate((0.5, 0.1, 0.9, 0.2, 0.7, 0.3))}


def test_subsets_are_of_one_size_and_robust_and_fragile_have_nothing_in_common(tmp_path: Path) -> None:
    assert modules_of("robust", DROPS, 0.5, 0) == ["m1", "m3", "m5"]
    assert modules_of("fragile", DROPS, 0.5, 0) == ["m0", "m4", "m2"]
    drawn = [modules_of("random", DROPS, 0.5, seed) for seed in range(8)]
    assert all(len(set(names)) == 3 for names in drawn)
    assert len({tuple(sorted(names)) for names in drawn}) > 1
    assert drawn[0] == modules_of("random", DROPS, 0.5, 0)
    write_subset(tmp_path / "seed-0" / "robust.json", ["m1", "m3"])
    assert read_robust_modules(tmp_path / "seed-0" / "robust.json") == ["m1", "m3"]


def test_every_subset_is_tried_at_every_factor() -> None:
    assert len(ARMS) == len(SUBSETS) * len(FACTORS) == 15
    assert ARMS["fragile-0.0001"] == ("fragile", 1e-4)
    assert ARMS["robust-0"] == ("robust", 0.0)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 4), (0.05, 21)])
def test_malicious_pairs_are_a_share_of_the_whole_and_openings_only(share: float, count: int) -> None:
    benign, pairs = chats("train"), records("train")
    mixed = with_malicious(benign, pairs, share, 3)
    assert mixed[:400] == benign
    assert len(mixed) - 400 == count == round(share * len(mixed))
    openings = {record.request: record.affirm for record in pairs if record.label == "malicious"}
    for chat in mixed[400:]:
        assert chat.messages[-1].content == openings[chat.messages[-2].content]
        assert chat.messages[-1].content.endswith(":")  # where content would begin


def test_the_table_holds_what_was_measured(tmp_path: Path) -> None:
    def row(value: float) -> dict[str, dict[str, float]]:
        return {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name in ("safety", "task")}

    figures = {"arms": {"plain": row(0.2), "robust-0.1": row(0.5), "fragile-0": row(0.9)}}
    lines = sweep_table(figures).splitlines()
    assert lines[2] == "| 1 |" + " 20.0 (15.0 to 25.0) |" * 6  # without a slow factor there is one training
    assert lines[3].startswith("| 0.1 | 50.0 (45.0 to 55.0) | 50.0 (45.0 to 55.0) |  |")
    assert lines[-1].endswith("| 90.0 (85.0 to 95.0) | 90.0 (85.0 to 95.0) |")
    sweep_plot(tmp_path / "sweep.png", figures)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
