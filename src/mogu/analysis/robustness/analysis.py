"""Analyze robustness, from a model's name and records to numbers, a plot and the robust subset.

Knows models, records and the output folder; measuring drops and searching the subset is left to the files next to this one.
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
from mogu.analysis.measurement_cache import MEASUREMENTS_FILE, MeasurementCache
from mogu.analysis.probe_plot import check_matplotlib
from mogu.analysis.probing import ProgressCallback
from mogu.analysis.robustness.heat_map import draw_map
from mogu.analysis.robustness.map import (
    BATCH_SIZE,
    DRAWS,
    STRENGTH,
    RobustnessMap,
    check_settings,
    linear_modules,
    measure_robustness,
    robustness_fingerprint,
)
from mogu.analysis.robustness.proxy import LabeledPrompts, ProxyKind, check_labels, proxy_records
from mogu.analysis.robustness.subset import TOLERANCE, RobustSubset, check_tolerance, search_subset
from mogu.data import Record
from mogu.files.atomic import atomic_file, check_replaceable
from mogu.files.outputs import one_process_at

FORMAT = 1
NUMBERS_FILE, PLOT_FILE = "robustness.json", "robustness.png"


@dataclass(frozen=True)
class Robustness:
    """What to measure, and how.

    Args:
        model: folder or hub id of a base model, or of a saved MoGU model, whose base is then measured.
        records: benign and malicious ones; their answers are ignored.
        out: folder for measurements, numbers and plot.
        proxy: what the proxy is fitted to: ``"records"`` as they are, or the malicious ones and their benign ``"twins"``.
        name: the model's name in the results; by default ``model``.
        strength: norm of the noise, relative to the norm of the weight.
        draws: number of times noise is drawn for each module.
        seed: decides the noise, and which records the proxy is fitted to.
        tolerance: largest drop of all robust modules perturbed together, as a share of the drop of all modules.
        batch_size: number of prompts in one forward pass.
        system_prompt: a system message for conversations that have none.
        base_model: where the base of a saved MoGU model is now.
        dtype: floating-point type to load the model in; ``None`` is the one it was saved in.
        chat_template: a Jinja file to use instead of the tokenizer's template.
        trust_remote_code: whether the base model's own code may run.
    """

    model: str
    records: Sequence[Record]
    out: Path
    proxy: ProxyKind = "records"
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
    """The results of the analysis.

    Args:
        model: the model that was named.
        base: if that is a saved MoGU model, its base, which was measured.
        map: every module's drop.
        subset: the robust modules.
    """

    model: str
    base: str | None
    map: RobustnessMap
    subset: RobustSubset

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``robustness.json``; docs/reference/file-formats.md explains each field."""
        robustness, robust = self.map, set(self.subset.names)
        return {
            "format": FORMAT,
            "model": self.model,
            "base": self.base,
            "prompts": dict(robustness.prompts),
            "settings": {
                "strength": robustness.strength,
                "draws": robustness.draws,
                "seed": robustness.seed,
                "tolerance": self.subset.tolerance,
                "system_prompt": robustness.system_prompt,
                "proxy": robustness.proxy,
            },
            "proxy": {"auroc": robustness.auroc, "margin": robustness.intact},
            "modules": [asdict(module) | {"robust": module.name in robust} for module in robustness.modules],
            "together": robustness.together,
            "subset": {
                "modules": list(self.subset.names),
                "drop": self.subset.drop,
                "parameters": sum(module.parameters for module in robustness.modules if module.name in robust),
            },
            "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "scikit-learn")},
        }


def analyze_robustness(settings: Robustness, *, progress: ProgressCallback = lambda step, done, total: None) -> RobustnessResult:
    """Measure the map, search the robust subset, and write ``robustness.json`` and ``robustness.png`` into ``settings.out``.

    Every draw is stored in the folder as it is measured: a run that was stopped resumes there, and another tolerance or more draws
    measure only what is missing. Numbers and plot are written together at the end, or not at all.

    Raises:
        MoguError: the model, the records or a setting cannot be used, mogu did not write the folder, or the proxy does not separate the
            labels.
    """
    check_settings(strength=settings.strength, draws=settings.draws, batch_size=settings.batch_size)
    check_tolerance(settings.tolerance)
    check_scikit_learn()
    check_matplotlib()
    check_labels(proxy_records(settings.records, settings.proxy))
    check_replaceable(settings.out, marker=MEASUREMENTS_FILE)
    base = find_base(settings.model, settings.base_model)
    tokenizer = base.load_tokenizer(chat_template=settings.chat_template, trust_remote_code=settings.trust_remote_code)
    system_prompt = settings.system_prompt if settings.system_prompt is not None else base.system_prompt
    model = base.load(dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    linear_modules(model)  # refuses models that cannot be measured before their weights are hashed
    prompts = LabeledPrompts.of(
        model, tokenizer, settings.records, system_prompt=system_prompt, batch_size=settings.batch_size, kind=settings.proxy
    )
    with one_process_at(settings.out):
        cache = MeasurementCache(settings.out, robustness_fingerprint(model, prompts))
        robustness = measure_robustness(
            model,
            tokenizer,
            settings.records,
            system_prompt=system_prompt,
            proxy=settings.proxy,
            strength=settings.strength,
            draws=settings.draws,
            seed=settings.seed,
            batch_size=settings.batch_size,
            cache=cache,
            progress=progress,
        )
        subset = search_subset(
            model,
            tokenizer,
            settings.records,
            robustness,
            tolerance=settings.tolerance,
            batch_size=settings.batch_size,
            cache=cache,
            progress=progress,
        )
        result = RobustnessResult(settings.name or settings.model, base.name if base.saved is not None else None, robustness, subset)
        _write(result, settings.out)
    return result


def _write(result: RobustnessResult, out: Path) -> None:
    with ExitStack() as targets:
        plot = targets.enter_context(atomic_file(out / PLOT_FILE))
        numbers = targets.enter_context(atomic_file(out / NUMBERS_FILE))
        draw_map(plot, result.map, result.subset.names, title=f"{result.model}: how much the safety proxy loses")
        numbers.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")
