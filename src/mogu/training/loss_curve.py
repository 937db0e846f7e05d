"""The losses of all stages beside the finished model: a JSONL file, and a picture where matplotlib (extra ``eval``) is installed.

Knows histories and files; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mogu.pages.curves import moving_average
from mogu.training.loss_history import HISTORY_FILE, gathered, write_history

PLOT_FILE = "loss.png"
SMOOTHED_PARTS = 20
"""A curve is averaged over this fraction of its steps: single steps are noise."""

FEW_STEPS = 50
"""A run of fewer steps is drawn as points."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossCurve:
    """The losses of every step of a run.

    Args:
        rows: the steps of all stages, one stage after the other.
    """

    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, histories: Sequence[Path]) -> LossCurve:
        """Read the histories of all parts of a run; a part that an earlier release trained has none."""
        return cls(gathered(histories))

    def files(self) -> dict[str, str | None]:
        """What :meth:`save` writes, for the report: ``loss_history`` and ``loss_plot``, each ``None`` if there is none."""
        plotted = self.rows and find_spec("matplotlib") is not None
        return {"loss_history": HISTORY_FILE if self.rows else None, "loss_plot": PLOT_FILE if plotted else None}

    def save(self, folder: Path) -> None:
        """Write the losses, and the picture of them, into an existing folder."""
        files = self.files()
        if files["loss_history"] is None:
            return
        write_history(folder / HISTORY_FILE, self.rows)
        if files["loss_plot"] is None:
            logger.info('The losses are in %s; a picture of them needs matplotlib: pip install "mogu[eval]".', HISTORY_FILE)
        else:
            plot_losses(self.rows, folder / PLOT_FILE)


def plot_losses(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Draw the loss of each step and its moving average, a panel for each stage and a color for each of its runs.

    Args:
        rows: the steps of all stages.
        target: the PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(str(row["stage"]), []).append(row)
    panels: dict[str, list[str]] = {}
    for name in runs:
        panels.setdefault(name.partition(" ")[0].rstrip(","), []).append(name)
    figure = Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
    for axes, (panel, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, name in enumerate(names):
            steps, losses = [row["step"] for row in runs[name]], [row["loss"] for row in runs[name]]
            smooth = moving_average(losses, max(1, len(losses) // SMOOTHED_PARTS))
            axes.plot(steps, losses, "." if len(steps) < FEW_STEPS else "-", color=f"C{index % 10}", alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth, color=f"C{index % 10}", linewidth=1.5, label=name)
        axes.set(title=panel, xlabel="optimizer step", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize="x-small")
    figure.savefig(target, format="png", dpi=120)
