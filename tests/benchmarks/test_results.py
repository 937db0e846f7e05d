"""One run of all benchmarks measures everything that it reports; no test looks at a timing."""

from __future__ import annotations

from typing import Any


def test_results_are_complete(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True
    assert {"device", "cores", "threads", "torch"} <= set(quick["machine"])
    for finding in quick["findings"]:
        assert {"what", "case", "value", "unit", "at_most", "at_least", "holds"} <= set(finding)
        assert (finding["holds"] is None) == (finding["at_most"] is None and finding["at_least"] is None)
    targets = [one["at_most"] or one["at_least"] for one in quick["findings"] if one["what"] == "decoding step, routing on"]
    assert targets == [1.03]
