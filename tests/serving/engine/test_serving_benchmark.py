"""The serving benchmark runs, and finds what it says."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from benchmarks.gated_serving import BENIGN, MIXED, PLAIN, measure_gated_serving
from benchmarks.serving import QUICK_LOAD, QUICK_SHAPE, measure


def test_it_measures_all_ways(tmp_path):
    findings, details = measure(QUICK_SHAPE, QUICK_LOAD, tmp_path)
    assert [finding.what for finding in findings] == ["throughput", "throughput", "resident memory of the engine"]
    seconds = details["seconds"]
    for finding, way in zip(findings, ("continue", "recompute"), strict=False):
        ratios = [plain / other for plain, other in zip(seconds["plain vLLM"], seconds[way], strict=True)]
        assert len(ratios) == QUICK_LOAD.rounds
        assert finding.value == pytest.approx(statistics.median(ratios))


def test_gated_traffic_is_measured_beside_plain_vllm(tmp_path):
    load = replace(QUICK_LOAD, requests=10)
    findings, details = measure_gated_serving(QUICK_SHAPE, load, tmp_path, listens=True)
    of_each = ["throughput", *(f"{what}, p{percent}" for what in ("time to first token", "time a token") for percent in (50, 99))]
    assert [finding.what for finding in findings] == 2 * of_each
    assert [way for way in (BENIGN, MIXED) for _ in of_each] == [finding.case.rpartition(", ")[2] for finding in findings]
    for start, way in ((0, BENIGN), (len(of_each), MIXED)):
        rounds = list(zip(details[way], details[PLAIN], strict=True))
        assert len(rounds) == load.rounds
        assert findings[start].value == pytest.approx(statistics.median(plain["seconds"] / ours["seconds"] for ours, plain in rounds))
        halfway = [statistics.median(ours["first"]) / statistics.median(plain["first"]) for ours, plain in rounds]
        assert findings[start + 1].value == pytest.approx(statistics.median(halfway))
        for turn in (turn for pair in rounds for turn in pair):
            assert len(turn["first"]) == load.requests
            assert len(turn["between"]) == load.requests * (load.new_tokens - 1)
            assert 0 < min(turn["first"]) <= max(turn["first"]) < turn["seconds"]
            assert sum(turn["first"]) + sum(turn["between"]) <= load.requests * turn["seconds"] * (1 + 1e-9)
    flagged = [index for index in range(load.requests) if index % 10 == 9]
    for turn in details[MIXED]:  # read twice, so later than all others
        assert turn["first"].index(max(turn["first"])) in flagged
