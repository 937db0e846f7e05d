"""Plot the probes of all layers.

Knows the probes' numbers; matplotlib is imported only when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mogu.analysis.activations import Kind
from mogu.analysis.linear_probe import LayerProbe
from mogu.errors import ConfigError

_STYLES: dict[Kind, tuple[str, str, str, str]] = {
    "last": ("last prompt token", "#0060a8", "o", "-"),
    "mean": ("mean over the prompt", "#c2410c", "s", "--"),
}
_TITLES = {"auroc": "AUROC", "accuracy": "accuracy"}


def check_matplotlib() -> None:
    """Refuse to continue without matplotlib.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "matplotlib is not installed", expected="matplotlib, to draw the plot", action="pip install 'mogu[eval]'"
        ) from error


def draw_probes(file: Path, probes: Mapping[Kind, Mapping[int, LayerProbe]], *, threshold: float, title: str) -> None:
    """Plot AUROC and accuracy by layer, one curve for each kind, with bands of one standard deviation over folds.

    Args:
        file: the PNG to write.
        probes: by kind and layer.
        threshold: an AUROC, drawn as a line.
        title: the title of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    lowest = 0.5
    for panel, (metric, name) in zip(panels, _TITLES.items(), strict=True):
        for kind, layers in probes.items():
            label, color, mark, line = _STYLES[kind]
            statistics = [getattr(probe, metric) for probe in layers.values()]
            means = [layer.mean for layer in statistics]
            low = [layer.mean - layer.std for layer in statistics]
            high = [min(1.0, layer.mean + layer.std) for layer in statistics]
            lowest = min(lowest, *low)
            panel.plot(list(layers), means, color=color, marker=mark, linestyle=line, markersize=4, label=label)
            panel.fill_between(list(layers), low, high, color=color, alpha=0.15, linewidth=0)
        panel.set_title(name, fontsize=11)
        panel.set_xlabel("layer")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(color="#e9ecf0")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(threshold, color="#5a636e", linewidth=1, linestyle=":")
    panels[0].annotate(
        f"threshold {threshold:g}",
        (0.0, threshold),
        xycoords=("axes fraction", "data"),
        xytext=(4, -11),
        textcoords="offset points",
        fontsize=8,
        color="#5a636e",
    )
    panels[0].set_ylim(max(0.0, lowest - 0.03), 1.02)
    panels[1].legend(frameon=False, loc="best")
    figure.suptitle(title, fontsize=11, parse_math=False, wrap=True)
    figure.savefig(file, format="png", dpi=130)
