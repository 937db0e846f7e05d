"""Spearman's rank correlation of tendency with attack success and with MoGU's score.

Knows a comparison's cells and tendencies by prompt; measures no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mogu.errors import DataError
from mogu.evaluation.intervals import Estimate, spearman
from mogu.evaluation.prompts import MALICIOUS

Measure = Literal["attack_success", "score"]
DEFENSES = ("none", "mogu")
"""Whose cells count: no defense's, and those of hardened models."""

EVERY, EVERY_MALICIOUS = "all", "all_malicious"


@dataclass(frozen=True)
class Correlation:
    """One rank correlation with tendency.

    Args:
        measure: ``attack_success`` (whether a malicious prompt was complied with) or ``score`` (MoGU's own).
        defense: whose replies: ``none``, or the name of a hardened model.
        category: of which prompts; ``all`` and ``all_malicious`` pool several.
        estimate: Spearman's ρ with its interval; NaN where the measure is the same for all prompts.
    """

    measure: Measure
    defense: str
    category: str
    estimate: Estimate

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON, in which there is no NaN."""
        estimate = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(self.estimate).items()
        }
        return {"measure": self.measure, "defense": self.defense, "category": self.category, **estimate}


@dataclass(frozen=True)
class Compared:
    """What a comparison measured on each prompt; the mean over seeds where there are several.

    Args:
        outcomes: by measure and defense, then by the prompt's id.
    """

    outcomes: Mapping[tuple[Measure, str], Mapping[str, float]]

    def correlations(self, tendencies: Sequence[tuple[str, str, float]]) -> list[Correlation]:
        """Correlate tendencies with every outcome, by category.

        Args:
            tendencies: id, category and tendency of each prompt; prompts that were not compared count nowhere.
        """
        correlations = []
        for (measure, defense), values in self.outcomes.items():
            for category, labels in _groups(tendencies, only=MALICIOUS if measure == "attack_success" else None).items():
                pairs = [(tendency, values[id]) for id, label, tendency in tendencies if label in labels and id in values]
                if len(pairs) > 2:
                    correlations.append(Correlation(measure, defense, category, spearman(*zip(*pairs, strict=True))))
        return correlations


def read_compared(folder: Path, ids: Sequence[str]) -> Compared:
    """Read the cells that ``mogu compare`` left in its output folder: those of no defense and of hardened models, with their own dials.

    Args:
        folder: the folder.
        ids: the prompts to correlate.

    Raises:
        DataError: there is no such folder, a cell is broken, or it has none of these prompts.
    """
    gathered: dict[tuple[Measure, str], dict[str, list[float]]] = {}
    known = set(ids)
    for file in sorted(folder.glob("cells/*/seed-*/*.json"), key=lambda file: (file.stem != DEFENSES[0], file.stem, file)):
        for row in _replies(file):
            if row["id"] not in known:
                continue
            values: list[tuple[Measure, float]] = [("attack_success", float(row["outcome"] == "complied"))]
            if (score := row["details"].get("score")) is not None:
                values.append(("score", float(score)))
            for measure, value in values:
                gathered.setdefault((measure, file.stem), {}).setdefault(row["id"], []).append(value)
    if not gathered:
        raise DataError(
            f"{folder} holds no reply to any of these instructions, neither without defense nor of a hardened model",
            expected="the output folder of a `mogu compare` on the same file of records, or on the lab",
            action="run `mogu compare` with --defenses none,mogu and this data first",
        )
    return Compared({key: {id: math.fsum(values) / len(values) for id, values in prompts.items()} for key, prompts in gathered.items()})


def _replies(file: Path) -> list[dict[str, Any]]:
    """The replies of a cell; none where it is another defense's, or of a dial that was turned."""
    try:
        cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if cell.get("defense", file.stem) not in DEFENSES or cell.get("options"):
            return []
        replies: list[dict[str, Any]] = cell["replies"]
        if not all({"id", "outcome", "details"} <= set(row) for row in replies):
            raise ValueError("a reply without its outcome")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is no cell of a comparison", expected="what `mogu compare` wrote", action="run that comparison again"
        ) from error
    return replies


def _groups(tendencies: Sequence[tuple[str, str, float]], only: Sequence[str] | None) -> dict[str, set[str]]:
    labels = {label for _, label, _ in tendencies if only is None or label in only}
    together = {EVERY: labels} if only is None else {EVERY_MALICIOUS: labels}
    return (together if len(labels) > 1 else {}) | {label: {label} for label in sorted(labels)}
