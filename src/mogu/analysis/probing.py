"""A probe of a model, from its name and records to numbers, a plot and a choice of layers.

Knows models, records and the output folder; what is read off the model and how planes are fitted is for the files beside this one.
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

from mogu.analysis.activation_cache import Parts, fingerprint
from mogu.analysis.activations import KINDS, Kind, read_activations
from mogu.analysis.base_model import check_lengths, find_base
from mogu.analysis.layer_ranking import Choice, check_choice, choose_layers
from mogu.analysis.linear_probe import STRENGTH, LayerProbe, check_folds, check_scikit_learn, cross_validated
from mogu.analysis.probe_plot import check_matplotlib, draw_probes
from mogu.data import Record, conversation_of
from mogu.files.atomic import atomic_file, check_replaceable
from mogu.hub import load_tokenizer
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt
from mogu.modeling.architectures import find_output_projections

FORMAT = 1
MARKER = "mogu_probe.json"
NUMBERS_FILE, PLOT_FILE, ACTIVATIONS_FOLDER = "probe.json", "probe.png", "activations"

Progress = Callable[[str, int, int], None]
"""Is told what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Probe:
    """What is to be probed, and how.

    Args:
        model: folder or hub id of a base model, or of a saved MoGU model, whose base is then probed.
        records: benign and malicious ones; their answers are not looked at.
        out: folder for activations, numbers and plot.
        name: what the model is called there; by default what it is called here.
        folds: of the cross-validation.
        seed: decides which prompt is in which fold.
        by: the kind of activation that layers are chosen by.
        threshold: an AUROC that a layer may reach.
        top: how many of the best layers are named; by default half of them.
        batch_size: prompts a pass.
        system_prompt: a system message put before conversations that have none.
        base_model: where the base of a saved MoGU model is now.
        output_projection: path of the projection inside one decoder layer, where the architecture is not known.
        dtype: floating-point type to load the model in; ``None`` is the one it was saved in.
        chat_template: a Jinja file in place of the tokenizer's template.
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
    """What was found.

    Args:
        model: the model that was named.
        base: where that is a saved MoGU model, its base, whose activations were read.
        labels: prompts of each label.
        probes: by kind, then by layer.
        choice: the layers worth routing.
        settings: the numbers that decided.
    """

    model: str
    base: str | None
    labels: Mapping[str, int]
    probes: Mapping[Kind, Mapping[int, LayerProbe]]
    choice: Choice
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As ``probe.json`` holds it; docs/reference/file-formats.md explains each field."""
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


def probe(wanted: Probe, *, progress: Progress = lambda what, done, total: None) -> ProbeResult:
    """Read the activations, probe every layer, choose, and write ``probe.json`` and ``probe.png`` into ``wanted.out``.

    A probe that was stopped goes on where it stopped. Numbers and plot are written together, at the end, or not at all.

    Raises:
        MoguError: the model, the records or a setting cannot be used, the folder is somebody else's, or no layer separates the labels.
    """
    _check(wanted)
    base = find_base(wanted.model, wanted.base_model)
    tokenizer = load_tokenizer(base.name, chat_template=wanted.chat_template, trust_remote_code=wanted.trust_remote_code)
    prompts = [encode_prompt(tokenizer, conversation_of(record, wanted.system_prompt)) for record in wanted.records]
    model = base.load(dtype=wanted.dtype, trust_remote_code=wanted.trust_remote_code)
    check_lengths(wanted.records, prompts, model)
    projections = find_output_projections(model, wanted.output_projection or base.output_projection)
    check_choice(len(projections), threshold=wanted.threshold, top=wanted.top)

    _mark(wanted.out)
    parts = Parts(wanted.out / ACTIVATIONS_FOLDER, fingerprint(model, projections, prompts), KINDS)
    read = 0

    def advance(more: int) -> None:
        nonlocal read
        read += more
        progress("reading prompts", read, len(prompts))

    activations = read_activations(
        model,
        projections,
        prompts,
        pad_token_id=padding_id(tokenizer),
        batch_size=wanted.batch_size,
        parts=parts,
        advance=advance,
    )
    malicious = torch.tensor([record.label == "malicious" for record in wanted.records])
    probes: dict[Kind, dict[int, LayerProbe]] = {kind: {} for kind in KINDS}
    for place, one in enumerate(projections):
        for kind in KINDS:
            probes[kind][one.layer] = cross_validated(activations.of(kind, place), malicious, folds=wanted.folds, seed=wanted.seed)
        progress("probing layers", place + 1, len(projections))
    result = ProbeResult(
        model=wanted.name or wanted.model,
        base=base.name if base.saved is not None else None,
        labels=Counter(record.label for record in wanted.records),
        probes=probes,
        choice=choose_layers(probes[wanted.by], by=wanted.by, threshold=wanted.threshold, top=wanted.top),
        settings={"folds": wanted.folds, "seed": wanted.seed, "strength": STRENGTH, "system_prompt": wanted.system_prompt},
    )
    _write(result, wanted.out)
    return result


def _check(wanted: Probe) -> None:
    """All that can be checked before a model is loaded."""
    check_scikit_learn()
    check_matplotlib()
    labels = Counter(record.label for record in wanted.records)
    check_folds(labels["malicious"], labels["benign"], wanted.folds)
    check_replaceable(wanted.out, marker=MARKER)


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
