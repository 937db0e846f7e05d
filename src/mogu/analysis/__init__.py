"""Analyses of a model that need no generation: probes of its layers, its response tendency, and which modules its safety depends on.

Importing this package imports no PyTorch: whatever needs it is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mogu.analysis.layer_ranking import LayerChoice, choose_layers
    from mogu.analysis.linear_probe import LayerProbe, cross_validated
    from mogu.analysis.probing import Probe, ProbeResult, probe
    from mogu.analysis.robustness import (
        ModuleRobustness,
        Robustness,
        RobustnessMap,
        RobustnessResult,
        RobustSubset,
        analyze_robustness,
        measure_robustness,
        search_subset,
    )

__all__ = [
    "LayerChoice",
    "LayerProbe",
    "ModuleRobustness",
    "Probe",
    "ProbeResult",
    "RobustSubset",
    "Robustness",
    "RobustnessMap",
    "RobustnessResult",
    "analyze_robustness",
    "choose_layers",
    "cross_validated",
    "measure_robustness",
    "probe",
    "search_subset",
]

_LAZY = {
    "LayerChoice": "mogu.analysis.layer_ranking",
    "LayerProbe": "mogu.analysis.linear_probe",
    "Probe": "mogu.analysis.probing",
    "ModuleRobustness": "mogu.analysis.robustness",
    "ProbeResult": "mogu.analysis.probing",
    "RobustSubset": "mogu.analysis.robustness",
    "Robustness": "mogu.analysis.robustness",
    "RobustnessMap": "mogu.analysis.robustness",
    "RobustnessResult": "mogu.analysis.robustness",
    "analyze_robustness": "mogu.analysis.robustness",
    "choose_layers": "mogu.analysis.layer_ranking",
    "cross_validated": "mogu.analysis.linear_probe",
    "measure_robustness": "mogu.analysis.robustness",
    "probe": "mogu.analysis.probing",
    "search_subset": "mogu.analysis.robustness",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mogu.analysis' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
