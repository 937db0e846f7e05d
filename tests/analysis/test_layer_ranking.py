"""Layers are chosen by AUROC, then by margin, and none is chosen if none separates the labels."""

from __future__ import annotations

import pytest

from mogu.analysis import LayerProbe, choose_layers
from mogu.analysis.linear_probe import FoldStatistics
from mogu.errors import ConfigError, MoguError


def probe_of(auroc: float, margin: float = 1.0) -> LayerProbe:
    return LayerProbe(FoldStatistics.over([auroc, auroc]), FoldStatistics.over([0.5, 0.5]), FoldStatistics.over([margin, margin]))


def test_layers_are_chosen_by_auroc_then_margin() -> None:
    probes = {0: probe_of(0.8), 1: probe_of(1.0, 2.0), 2: probe_of(0.95), 3: probe_of(1.0, 3.0), 4: probe_of(1.0, 1.0)}
    assert choose_layers(probes, by="last", threshold=0.95, top=2).above == (1, 2, 3, 4)
    assert choose_layers(probes, by="last", top=1).top == (3,)
    assert choose_layers(probes, by="last", top=2).top == (1, 3)
    assert choose_layers(probes, by="last").top == (1, 3, 4)  # half of them
    assert choose_layers(probes, by="last", threshold=1.0, top=5).top == (0, 1, 2, 3, 4)


def test_none_is_chosen_where_none_separates() -> None:
    with pytest.raises(MoguError, match=r"the best AUROC is 0\.59, in layer 1"):
        choose_layers({0: probe_of(0.5), 1: probe_of(0.594)}, by="last")
    assert choose_layers({0: probe_of(0.6), 1: probe_of(0.5)}, by="last").above == ()


@pytest.mark.parametrize(("threshold", "top"), [(0.5, None), (1.1, None), (float("nan"), None), (0.9, 0), (0.9, 3)])
def test_settings_out_of_range(threshold: float, top: int | None) -> None:
    with pytest.raises(ConfigError):
        choose_layers({0: probe_of(0.9), 1: probe_of(0.9)}, by="last", threshold=threshold, top=top)
