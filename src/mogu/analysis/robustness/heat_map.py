"""Plot the robustness map.

Knows the map's numbers; matplotlib is imported only when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mogu.analysis.robustness.map import RobustnessMap


def draw_map(file: Path, robustness: RobustnessMap, robust: Collection[str], *, title: str) -> None:
    """Draw a heat map with a column for each layer and a row for each module; robust modules are marked with a dot.

    The color shows the drop on a logarithmic scale; darker is larger.

    Args:
        file: the PNG to write.
        robustness: the map.
        robust: full names of the robust modules.
        title: the title of the figure.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    layers = max(module.layer for module in robustness.modules) + 1
    paths = list(dict.fromkeys(module.module for module in robustness.modules))
    drops = np.full((len(paths), layers), np.nan)
    for module in robustness.modules:
        drops[paths.index(module.module), module.layer] = module.drop
    positive = drops[drops > 0]
    largest = float(positive.max()) if positive.size else 1.0
    smallest = float(positive.min()) if positive.size else 0.1
    lowest = min(smallest, largest / 10)
    drawn = np.where(drops == 0, lowest, drops)  # the logarithm of 0 is not finite

    figure = Figure(figsize=(max(5.5, 3.0 + 0.3 * layers), 1.6 + 0.36 * len(paths)), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(drawn, cmap="YlOrRd", norm=LogNorm(lowest, largest), aspect="auto")
    marked = [module for module in robustness.modules if module.name in robust]
    panel.plot(
        [module.layer for module in marked],
        [paths.index(module.module) for module in marked],
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
    bar = figure.colorbar(image, ax=panel, label="drop", ticks=LogLocator(subs=(1, 2, 5)), format="%g")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    figure.suptitle(title, fontsize=11, parse_math=False, wrap=True)
    figure.savefig(file, format="png", dpi=130)
