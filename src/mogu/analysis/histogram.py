"""The histogram of tendencies by label. Knows numbers and matplotlib (extra ``eval``), which is imported with this module."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLORS = {
    "benign": "#2a7f62",
    "benign_wrapped": "#7fb7a3",
    "borderline": "#c79a2b",
    "malicious": "#a8323e",
    "malicious_wrapped": "#dd8a5c",
}
_OTHERS = ("#3b5b92", "#7a5195", "#6b6b6b", "#4f9da6", "#8c6d46")
_BINS = 40


def draw(by_label: Mapping[str, Sequence[float]], file: Path) -> None:
    """Draw one panel a label, on one scale, so that many labels do not cover each other; written as PNG.

    Args:
        by_label: tendencies of each label; at least one.
        file: where to.
    """
    values = [value for some in by_label.values() for value in some]
    edges = np.histogram_bin_edges(values, bins=_BINS)
    figure = Figure(figsize=(7.5, 0.9 + 1.15 * len(by_label)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(by_label), 1, sharex=True, squeeze=False)[:, 0]
    others = iter(_OTHERS * len(by_label))
    for panel, (label, some) in zip(panels, by_label.items(), strict=True):
        panel.hist(some, bins=edges, color=_COLORS.get(label) or next(others))
        panel.axvline(0, color="black", linewidth=1, linestyle=":")
        mean = statistics.fmean(some)
        panel.axvline(mean, color="black", linewidth=1.2)
        panel.set_title(f"{label.replace('_', ' ')} ({len(some)}), mean {mean:+.2f}", loc="left", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    panels[-1].set_xlabel("← leans to refuse        tendency, nats per token        leans to affirm →", fontsize=9)
    figure.savefig(file, format="png", dpi=120)
