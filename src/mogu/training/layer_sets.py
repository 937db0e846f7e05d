"""Which sets of layers MoGU V2 tries to route: those in which a probe best separates benign from malicious training prompts.

Knows probes and recipes; does not know how a set is trained or which one is kept.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from transformers import PreTrainedModel

from mogu.analysis.activations import read_activations
from mogu.analysis.layer_ranking import choose_layers
from mogu.analysis.linear_probe import LayerProbe, cross_validated
from mogu.files.json_files import fingerprint
from mogu.inference.padding import padding_id
from mogu.modeling.architectures import Projection, find_output_projections
from mogu.processes import on_main
from mogu.progress import progress_bars
from mogu.training.inputs import Inputs
from mogu.training.recipe import ProbeSection, Recipe
from mogu.training.workspace import Workspace

PART = "probe"

logger = logging.getLogger(__name__)


def top_counts(section: ProbeSection, layers: int) -> list[int]:
    """How many of the best layers each set has: the recipe's numbers, or an eighth and a quarter of ``layers``, rounded up."""
    if section.top is not None:
        return section.top
    return [] if section.thresholds else [math.ceil(layers / 8), math.ceil(layers / 4)]


def probed_layer_sets(recipe: Recipe, base: PreTrainedModel, inputs: Inputs, workspace: Workspace) -> list[tuple[int, ...]]:
    """Probe the layers of a base model on the training prompts, and return the sets that the recipe asks for, without repetition.

    Where the one set asked for is all the layers there are, nothing is probed.

    Args:
        recipe: its section ``probe``, and ``mogu.layers`` for the layers to choose from.
        base: the base model, plain.
        inputs: the data; the dev records are not used here, since they decide among the sets.
        workspace: where the numbers are kept.

    Raises:
        ConfigError: scikit-learn is missing, or more layers are asked for than there are.
        DataError: a label has too few records.
        MoguError: no layer separates the labels.
    """
    section = recipe.probe
    projections = find_output_projections(base, recipe.mogu.output_projection, recipe.mogu.layers)
    if not section.thresholds and top_counts(section, len(projections)) == [len(projections)]:
        return [tuple(projection.layer for projection in projections)]  # there is nothing to choose from
    probes = _probes(recipe, base, projections, inputs, workspace)
    sets = [choose_layers(probes, by=section.by, top=count).top for count in top_counts(section, len(projections))]
    sets += [choose_layers(probes, by=section.by, threshold=threshold).above for threshold in section.thresholds]
    ranked = sorted(probes, key=lambda layer: -probes[layer].auroc.mean)[:8]
    logger.info("The probe's best layers, by AUROC: %s", ", ".join(f"{layer} ({probes[layer].auroc.mean:.3f})" for layer in ranked))
    return list(dict.fromkeys(layers for layers in sets if layers))


def _probes(
    recipe: Recipe, base: PreTrainedModel, projections: list[Projection], inputs: Inputs, workspace: Workspace
) -> dict[int, LayerProbe]:
    section = recipe.probe
    examples = inputs.examples["router"]
    prompts = [list(example.prompt) for example in examples]
    model = recipe.model.that_counts
    names = [projection.name for projection in projections]
    settings = fingerprint(model, prompts, names, section.by, section.folds, recipe.run.seed)
    record = workspace.finished(PART, settings)
    if record is None:
        workspace.begin(PART, settings, resume=True)
        layers = on_main(lambda: _cross_validated(recipe, base, projections, inputs))
        record = workspace.finish(PART, settings, layers=layers)
    return {int(layer): LayerProbe.from_json(numbers) for layer, numbers in record["layers"].items()}


def _cross_validated(recipe: Recipe, base: PreTrainedModel, projections: list[Projection], inputs: Inputs) -> dict[str, Any]:
    section, examples = recipe.probe, inputs.examples["router"]
    prompts = [list(example.prompt) for example in examples]
    malicious = torch.tensor([example.malicious for example in examples])
    with progress_bars() as progress:
        task = progress.add_task("probe", total=len(prompts), note="prompts read")
        activations = read_activations(
            base,
            projections,
            prompts,
            pad_token_id=padding_id(inputs.tokenizer, base),
            batch_size=section.batch_size,
            advance=lambda count: progress.advance(task, count),
        )
    layers: dict[str, Any] = {}
    for index, projection in enumerate(projections):
        vectors = activations.of(section.by, index)
        layers[str(projection.layer)] = cross_validated(vectors, malicious, folds=section.folds, seed=recipe.run.seed).as_json()
    return layers
