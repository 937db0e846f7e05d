"""A robustness map from a model's name and records to numbers, a plot and the robust subset.

Knows models, records and the output folder; how drops are measured and searched is for the files beside this one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mogu.analysis.base_model import find_base
from mogu.analysis.linear_probe import check_scikit_learn
from mogu.analysis.measurement_cache import MEASURED_FILE, Measured
from mogu.analysis.probe_plot import check_matplotlib
from mogu.analysis.probing import Progress
from mogu.analysis.robustness.heat_map import draw_map
from mogu.analysis.robustness.map import (
    BATCH_SIZE,
    DRAWS,
    STRENGTH,
    RobustnessMap,
    check_settings,
    linear_modules,
    made_with,
    measure_robustness,
)
from mogu.analysis.robustness.proxy import Prompts, check_labels
from mogu.analysis.robustness.subset import TOLERANCE, RobustSubset, check_tolerance, search_subset
from mogu.data import Record
from mogu.files.atomic import atomic_file, check_replaceable
from mogu.hub import load_tokenizer

FORMAT = 1
NUMBERS_FILE, PLOT_FILE = "robustness.json", "robustness.png"


@dataclass(frozen=True)
class Robustness:
    """What is to be measured, and how.

    Args:
        model: folder or hub id of a base model, or of a saved MoGU model, whose base is then measured.
        records: benign and malicious ones; their answers are not looked at.
        out: folder for what is measured, numbers and plot.
        name: what the model is called there; by default what it is called here.
        strength: norm of the noise, relative to the weight's.
        draws: how many times noise is drawn for each module.
        seed: decides the noise, and which records the proxy is fitted to.
        tolerance: what the proxy may suffer from the robust modules together, as a share of what it suffers from all.
        batch_size: prompts a pass.
        system_prompt: a system message put before conversations that have none.
        base_model: where the base of a saved MoGU model is now.
        dtype: floating-point type to load the model in; ``None`` is the one it was saved in.
        chat_template: a Jinja file in place of the tokenizer's template.
        trust_remote_code: whether the base model's own code may run.
    """

    model: str
    records: Sequence[Record]
    out: Path
    name: str | None = None
    strength: float = STRENGTH
    draws: int = DRAWS
    seed: int = 0
    tolerance: float = TOLERANCE
    batch_size: int = BATCH_SIZE
    system_prompt: str | None = None
    base_model: str | None = None
    dtype: torch.dtype | None = None
    chat_template: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class RobustnessResult:
    """What was found.

    Args:
        model: the model that was named.
        base: where that is a saved MoGU model, its base, which was measured.
        map: every module's drop.
        subset: the robust modules.
    """

    model: str
    base: str | None
    map: RobustnessMap
    subset: RobustSubset

    def as_json(self) -> dict[str, Any]:
        """As ``robustness.json`` holds it; docs/reference/file-formats.md explains each field."""
        found, robust = self.map, set(self.subset.names)
        return {
            "format": FORMAT,
            "model": self.model,
            "base": self.base,
            "prompts": dict(found.prompts),
            "settings": {
                "strength": found.strength,
                "draws": found.draws,
                "seed": found.seed,
                "tolerance": self.subset.tolerance,
                "system_prompt": found.system_prompt,
            },
            "proxy": {"auroc": found.auroc, "margin": found.intact},
            "modules": [asdict(one) | {"robust": one.name in robust} for one in found.modules],
            "together": found.together,
            "subset": {
                "modules": list(self.subset.names),
                "drop": self.subset.drop,
                "parameters": sum(one.parameters for one in found.modules if one.name in robust),
            },
            "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "scikit-learn")},
        }


def chart_robustness(wanted: Robustness, *, progress: Progress = lambda what, done, total: None) -> RobustnessResult:
    """Measure the map, search the robust subset, and write ``robustness.json`` and ``robustness.png`` into ``wanted.out``.

    Every draw is kept in the folder as it is measured: a run that was stopped goes on there, and another tolerance or more draws measure
    only what is missing. Numbers and plot are written together, at the end, or not at all.

    Raises:
        MoguError: the model, the records or a setting cannot be used, the folder is somebody else's, or the proxy does not tell the
            labels apart.
    """
    check_settings(strength=wanted.strength, draws=wanted.draws, batch_size=wanted.batch_size)
    check_tolerance(wanted.tolerance)
    check_scikit_learn()
    check_matplotlib()
    check_labels(wanted.records)
    check_replaceable(wanted.out, marker=MEASURED_FILE)
    base = find_base(wanted.model, wanted.base_model)
    tokenizer = load_tokenizer(base.name, chat_template=wanted.chat_template, trust_remote_code=wanted.trust_remote_code)
    model = base.load(dtype=wanted.dtype, trust_remote_code=wanted.trust_remote_code)
    linear_modules(model)  # refuses what cannot be measured before weights are looked at
    prompts = Prompts.of(model, tokenizer, wanted.records, system_prompt=wanted.system_prompt, batch_size=wanted.batch_size)
    measured = Measured(wanted.out, made_with(model, prompts))
    found = measure_robustness(
        model,
        tokenizer,
        wanted.records,
        system_prompt=wanted.system_prompt,
        strength=wanted.strength,
        draws=wanted.draws,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        measured=measured,
        progress=progress,
    )
    subset = search_subset(
        model,
        tokenizer,
        wanted.records,
        found,
        tolerance=wanted.tolerance,
        batch_size=wanted.batch_size,
        measured=measured,
        progress=progress,
    )
    result = RobustnessResult(wanted.name or wanted.model, base.name if base.saved is not None else None, found, subset)
    _write(result, wanted.out)
    return result


def _write(result: RobustnessResult, out: Path) -> None:
    with ExitStack() as targets:
        plot = targets.enter_context(atomic_file(out / PLOT_FILE))
        numbers = targets.enter_context(atomic_file(out / NUMBERS_FILE))
        draw_map(plot, result.map, result.subset.names, title=f"{result.model}: how much the safety proxy suffers")
        numbers.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")
