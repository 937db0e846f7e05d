"""The robustness map as a picture.

Knows the map's numbers; matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mogu.analysis.robustness.map import RobustnessMap


def draw_map(file: Path, found: RobustnessMap, robust: Collection[str], *, title: str) -> None:
    """A heat map: a column a layer, a row a module, darker where the drop is larger, on a logarithmic scale; a dot marks a robust module.

    Args:
        file: a PNG.
        found: the map.
        robust: full names of the robust modules.
        title: what was measured.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    layers = max(one.layer for one in found.modules) + 1
    paths = list(dict.fromkeys(one.module for one in found.modules))
    drops = np.full((len(paths), layers), np.nan)
    for one in found.modules:
        drops[paths.index(one.module), one.layer] = one.drop
    positive = drops[drops > 0]
    largest = float(positive.max()) if positive.size else 1.0
    smallest = float(positive.min()) if positive.size else 0.1
    lowest = min(smallest, largest / 10)
    drawn = np.where(drops == 0, lowest, drops)  # 0 has no logarithm

    figure = Figure(figsize=(max(5.5, 3.0 + 0.3 * layers), 1.6 + 0.36 * len(paths)), layout="constrained")
    panel = figure.subplots()
    picture = panel.imshow(drawn, cmap="YlOrRd", norm=LogNorm(lowest, largest), aspect="auto")
    marked = [one for one in found.modules if one.name in robust]
    panel.plot(
        [one.layer for one in marked],
        [paths.index(one.module) for one in marked],
        color="#12507b",
        marker="o",
        markersize=5,
        linestyle="none",
        label="robust subset",
    )
    panel.set_yticks(range(len(paths)), paths, fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("layer")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    if marked:
        panel.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=9, borderaxespad=0.2)
    bar = figure.colorbar(picture, ax=panel, label="drop", ticks=LogLocator(subs=(1, 2, 5)), format="%g")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    figure.suptitle(title, fontsize=11, parse_math=False, wrap=True)
    figure.savefig(file, format="png", dpi=130)
