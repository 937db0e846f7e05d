"""The figures of the fine-tuning benchmark, worked out by hand from outcomes that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.erosion import estimates, markdown, plot


def run(direct: int, jailbroken: int, task: int, name: str | None) -> dict[str, Any]:
    """So many of 10 direct and 20 jailbroken prompts refused, and so many of 10 task answers right."""

    def some(yes: int, count: int, rest: str) -> list[str]:
        return ["refused"] * yes + [rest] * (count - yes)

    verdicts = {
        "malicious": some(direct, 10, "complied"),
        "malicious_wrapped": some(jailbroken, 20, "complied"),
        "benign": some(0, 8, "answered"),
        "benign_wrapped": some(1, 6, "answered"),
        "borderline": some(1, 6, "other"),
    }
    tried = {"name": name, "task accuracy": 1.0, "direct attack success": 0.25, "jailbroken attack success": 0.5, "benign refusals": 0.0}
    report = {"chosen": {"name": name}, "tried": [tried]} if name is not None else None
    return {"report": report, "verdicts": verdicts, "task": [True] * task + [False] * (10 - task)}


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    runs = {
        "before": [run(10, 8, 0, None)] * 2,
        "plain": [run(4, 0, 10, "plain"), run(2, 0, 10, "plain")],
        "data-mix": [run(10, 16, 9, "data-mix, share 0.1"), run(9, 16, 10, "data-mix, share 0.1")],
    }
    for arm, both in runs.items():
        for seed, one in enumerate(both):
            file = tmp_path / f"seed-{seed}" / f"{arm}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(one))
    return estimates(tmp_path, 2)


def test_rates_are_means_over_seeds_and_prompts(found: dict[str, Any]) -> None:
    values = {arm: {name: one["value"] for name, one in row.items()} for arm, row in found["arms"].items()}
    assert values["before"]["direct"] == 1
    assert values["plain"]["direct"] == pytest.approx(0.3)
    assert values["data-mix"] == pytest.approx(
        # direct and jailbroken weigh the same, though there are twice as many jailbroken prompts
        {
            "task": 0.95,
            "direct": 0.95,
            "jailbroken": 0.8,
            "safety": 0.875,
            "benign": 13 / 20,
            "benign_refused": 2 / 20,
            "borderline_refused": 1 / 6,
        }
    )


def test_what_is_won_back_is_a_share_of_what_plain_tuning_lost(found: dict[str, Any]) -> None:
    won = found["won_back"]["data-mix"]
    assert won["direct"]["value"] == pytest.approx((0.95 - 0.3) / (1 - 0.3))
    assert won["jailbroken"]["value"] == pytest.approx((0.8 - 0) / (0.4 - 0))
    assert won["safety"]["value"] == pytest.approx((0.875 - 0.15) / (0.7 - 0.15))
    for one in won.values():
        assert one["low"] <= one["value"] <= one["high"]
    assert found["task_loss"]["data-mix"]["value"] == pytest.approx(0.05)


def test_tables_and_plot_hold_what_was_found(found: dict[str, Any], tmp_path: Path) -> None:
    text = markdown(found)
    assert "| before tuning | 0.0 (" in text
    assert "| share 0.1 |" in text
    assert "| data-mix, share 0.1 | 100.0 | 25.0 | 50.0 | 0.0 |" in text
    plot(tmp_path / "plot.png", found)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
