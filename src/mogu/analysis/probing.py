"""Probe a model, from its name and records to numbers, a plot and a choice of layers.

Knows models, records and the output folder; reading activations and fitting classifiers is left to the files next to this one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mogu.analysis.activation_cache import ActivationCache, activations_fingerprint
from mogu.analysis.activations import KINDS, Kind, read_activations
from mogu.analysis.base_model import check_prompt_lengths, find_base
from mogu.analysis.layer_ranking import LayerChoice, check_layer_choice, choose_layers
from mogu.analysis.linear_probe import STRENGTH, LayerProbe, check_folds, check_scikit_learn, cross_validated
from mogu.analysis.probe_plot import check_matplotlib, draw_probes
from mogu.data import Record, encode_records
from mogu.files.atomic import atomic_file, check_replaceable
from mogu.files.outputs import one_process_at
from mogu.inference.padding import padding_id
from mogu.modeling.architectures import find_output_projections

FORMAT = 1
MARKER = "mogu_probe.json"
NUMBERS_FILE, PLOT_FILE, ACTIVATIONS_FOLDER = "probe.json", "probe.png", "activations"

ProgressCallback = Callable[[str, int, int], None]
"""Called with the name of the current step, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Probe:
    """What to probe, and how.

    Args:
        model: folder or hub id of a base model, or of a saved MoGU model, whose base is then probed.
        records: benign and malicious ones; their answers are ignored.
        out: folder for activations, numbers and plot.
        name: the model's name in the results; by default ``model``.
        folds: number of folds of the cross-validation.
        seed: decides which prompt is in which fold.
        by: the kind of activation by which layers are chosen.
        threshold: the AUROC at which a layer counts as one that separates the labels.
        top: how many of the best layers are named; by default half of them.
        batch_size: number of prompts in one forward pass.
        system_prompt: a system message for conversations that have none.
        base_model: where the base of a saved MoGU model is now.
        output_projection: path of the projection inside a decoder layer, for architectures that are not known.
        dtype: floating-point type to load the model in; ``None`` is the one it was saved in.
        chat_template: a Jinja file to use instead of the tokenizer's template.
        trust_remote_code: whether the base model's own code may run.
    """

    model: str
    records: Sequence[Record]
    out: Path
    name: str | None = None
    folds: int = 5
    seed: int = 0
    by: Kind = "last"
    threshold: float = 0.9
    top: int | None = None
    batch_size: int = 16
    system_prompt: str | None = None
    base_model: str | None = None
    output_projection: str | None = None
    dtype: torch.dtype | None = None
    chat_template: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ProbeResult:
    """The results of a probe.

    Args:
        model: the model that was named.
        base: if that is a saved MoGU model, its base, whose activations were read.
        labels: number of prompts of each label.
        probes: by kind, then by layer.
        choice: the layers worth routing.
        settings: the settings that the numbers depend on.
    """

    model: str
    base: str | None
    labels: Mapping[str, int]
    probes: Mapping[Kind, Mapping[int, LayerProbe]]
    choice: LayerChoice
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``probe.json``; docs/reference/file-formats.md explains each field."""
        layers = list(self.probes[KINDS[0]])
        return {
            "format": FORMAT,
            "model": self.model,
            "base": self.base,
            "prompts": dict(self.labels),
            "settings": dict(self.settings),
            "layers": [{"layer": layer} | {kind: self.probes[kind][layer].as_json() for kind in KINDS} for layer in layers],
            "choice": asdict(self.choice),
            "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "scikit-learn")},
        }


def probe(settings: Probe, *, progress: ProgressCallback = lambda step, done, total: None) -> ProbeResult:
    """Read activations, probe every layer, choose layers, and write ``probe.json`` and ``probe.png`` into ``settings.out``.

    A probe that was stopped resumes where it stopped. Numbers and plot are written together at the end, or not at all.

    Raises:
        MoguError: the model, the records or a setting cannot be used, mogu did not write the folder, or no layer separates the labels.
    """
    _check(settings)
    base = find_base(settings.model, settings.base_model)
    tokenizer = base.load_tokenizer(chat_template=settings.chat_template, trust_remote_code=settings.trust_remote_code)
    system_prompt = settings.system_prompt if settings.system_prompt is not None else base.system_prompt
    prompts = encode_records(tokenizer, settings.records, system_prompt)
    model = base.load(dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    check_prompt_lengths(settings.records, prompts, model)
    projections = find_output_projections(model, settings.output_projection or base.output_projection)
    check_layer_choice(len(projections), threshold=settings.threshold, top=settings.top)

    with one_process_at(settings.out):
        _mark(settings.out)
        fingerprint = activations_fingerprint(model, projections, prompts)
        cache = ActivationCache(settings.out / ACTIVATIONS_FOLDER, fingerprint, KINDS)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress("reading prompts", done, len(prompts))

        activations = read_activations(
            model,
            projections,
            prompts,
            pad_token_id=padding_id(tokenizer, model),
            batch_size=settings.batch_size,
            cache=cache,
            advance=advance,
        )
        malicious = torch.tensor([record.label == "malicious" for record in settings.records])
        probes: dict[Kind, dict[int, LayerProbe]] = {kind: {} for kind in KINDS}
        for index, projection in enumerate(projections):
            for kind in KINDS:
                vectors = activations.of(kind, index)
                probes[kind][projection.layer] = cross_validated(vectors, malicious, folds=settings.folds, seed=settings.seed)
            progress("probing layers", index + 1, len(projections))
        result = ProbeResult(
            model=settings.name or settings.model,
            base=base.name if base.saved is not None else None,
            labels=Counter(record.label for record in settings.records),
            probes=probes,
            choice=choose_layers(probes[settings.by], by=settings.by, threshold=settings.threshold, top=settings.top),
            settings={"folds": settings.folds, "seed": settings.seed, "strength": STRENGTH, "system_prompt": system_prompt},
        )
        _write(result, settings.out)
    return result


def _check(settings: Probe) -> None:
    """Check everything that can be checked before a model is loaded."""
    check_scikit_learn()
    check_matplotlib()
    labels = Counter(record.label for record in settings.records)
    check_folds(labels["malicious"], labels["benign"], settings.folds)
    check_replaceable(settings.out, marker=MARKER)


def _mark(out: Path) -> None:
    with atomic_file(out / MARKER) as scratch:
        scratch.write_text(json.dumps({"what": "folder of `mogu probe`: activations, numbers and plot"}) + "\n", encoding="utf-8")


def _write(result: ProbeResult, out: Path) -> None:
    with ExitStack() as targets:
        plot = targets.enter_context(atomic_file(out / PLOT_FILE))
        numbers = targets.enter_context(atomic_file(out / NUMBERS_FILE))
        title = f"{result.model}: benign against malicious, {sum(result.labels.values())} prompts"
        draw_probes(plot, result.probes, threshold=result.choice.threshold, title=title)
        numbers.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")
