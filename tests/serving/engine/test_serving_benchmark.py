"""The serving benchmark runs, and finds what it says."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.serving import QUICK_LOAD, QUICK_SHAPE, measure


def test_it_measures_all_ways(tmp_path):
    findings, details = measure(QUICK_SHAPE, QUICK_LOAD, tmp_path)
    assert [finding.what for finding in findings] == ["throughput", "throughput", "resident memory of the engine"]
    seconds = details["seconds"]
    for finding, way in zip(findings, ("continue", "recompute"), strict=False):
        ratios = [plain / other for plain, other in zip(seconds["plain vLLM"], seconds[way], strict=True)]
        assert len(ratios) == QUICK_LOAD.rounds
        assert finding.value == pytest.approx(statistics.median(ratios))
