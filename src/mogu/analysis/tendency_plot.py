"""Draw histograms of tendencies by label.

Knows numbers; importing this file imports matplotlib (extra ``eval``).
"""

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
_OTHER_COLORS = ("#3b5b92", "#7a5195", "#6b6b6b", "#4f9da6", "#8c6d46")
_BINS = 40


def draw_histograms(by_label: Mapping[str, Sequence[float]], file: Path) -> None:
    """Draw one panel for each label, all on one scale, so that many labels do not cover each other.

    Args:
        by_label: tendencies of each label; at least one.
        file: the PNG to write.
    """
    edges = np.histogram_bin_edges([value for values in by_label.values() for value in values], bins=_BINS)
    figure = Figure(figsize=(7.5, 0.9 + 1.15 * len(by_label)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(by_label), 1, sharex=True, squeeze=False)[:, 0]
    other_colors = iter(_OTHER_COLORS * len(by_label))
    for panel, (label, values) in zip(panels, by_label.items(), strict=True):
        panel.hist(values, bins=edges, color=_COLORS.get(label) or next(other_colors))
        panel.axvline(0, color="black", linewidth=1, linestyle=":")
        mean = statistics.fmean(values)
        panel.axvline(mean, color="black", linewidth=1.2)
        panel.set_title(f"{label.replace('_', ' ')} ({len(values)}), mean {mean:+.2f}", loc="left", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    panels[-1].set_xlabel("← tends to refuse        tendency, nats per token        tends to affirm →", fontsize=9)
    figure.savefig(file, format="png", dpi=120)
