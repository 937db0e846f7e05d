"""Rank layers by their probes, and choose those worth routing.

Knows the probes' numbers; knows nothing of how they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mogu.analysis.linear_probe import LayerProbe
from mogu.errors import ConfigError, MoguError

LEAST_AUROC = 0.6
"""If no layer reaches it, none is chosen: chance is 0.5, and the best of many layers lies above chance by luck."""


@dataclass(frozen=True)
class LayerChoice:
    """Layers that separate benign prompts from malicious ones, by the AUROC of one kind of activation.

    Args:
        by: the kind, ``"last"`` or ``"mean"``.
        threshold: an AUROC.
        above: the layers that reach it, in order.
        top: the best layers, in order.
    """

    by: str
    threshold: float
    above: tuple[int, ...]
    top: tuple[int, ...]


def check_layer_choice(layers: int, *, threshold: float, top: int | None) -> int:
    """Refuse a threshold or a number of layers that makes no sense; return the number of layers, by default half of them.

    Raises:
        ConfigError: one of them is out of range.
    """
    if not 0.5 < threshold <= 1:
        raise ConfigError(
            f"The threshold is {threshold:g}",
            expected="an AUROC above 0.5 and at most 1",
            action="give --threshold 0.9, in a recipe probe.thresholds = [0.9]",
        )
    if top is not None and not 1 <= top <= layers:
        raise ConfigError(
            f"The {top} best layers were asked for", expected=f"a number from 1 to {layers}", action="correct --top, in a recipe probe.top"
        )
    return (layers + 1) // 2 if top is None else top


def choose_layers(probes: Mapping[int, LayerProbe], *, by: str, threshold: float = 0.9, top: int | None = None) -> LayerChoice:
    """Choose the layers at or above a threshold, and the best ones: those with the highest AUROC, ties broken by the highest margin.

    Args:
        probes: by layer.
        by: the kind of activation that the probes read; it is only recorded.
        threshold: an AUROC.
        top: how many of the best layers; by default half of them.

    Raises:
        ConfigError: ``threshold`` or ``top`` is out of range.
        MoguError: no layer separates the labels.
    """
    count = check_layer_choice(len(probes), threshold=threshold, top=top)
    ranked = sorted(probes, key=lambda layer: (-probes[layer].auroc.mean, -probes[layer].margin.mean, layer))
    best = probes[ranked[0]].auroc.mean
    if best < LEAST_AUROC:
        raise MoguError(
            f"No layer separates benign prompts from malicious ones: the best AUROC is {best:.2f}, in layer {ranked[0]} ({by})",
            expected=f"a layer with an AUROC of at least {LEAST_AUROC}; 0.5 is chance",
            action="check labels and chat template, add records, or use the other kind of activation (--by, in a recipe probe.by)",
        )
    above = tuple(sorted(layer for layer in probes if probes[layer].auroc.mean >= threshold))
    return LayerChoice(by, threshold, above, tuple(sorted(ranked[:count])))
