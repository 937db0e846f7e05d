"""What a model tells about prompts without being asked: probes of its layers, and how it leans before it answers.

Importing this package imports no PyTorch: what needs it is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mogu.analysis.choice import Choice, choose_layers
    from mogu.analysis.linear_probe import LayerProbe, cross_validated
    from mogu.analysis.probing import Probe, ProbeResult, probe

__all__ = ["Choice", "LayerProbe", "Probe", "ProbeResult", "choose_layers", "cross_validated", "probe"]

_LAZY = {
    "Choice": "mogu.analysis.choice",
    "LayerProbe": "mogu.analysis.linear_probe",
    "Probe": "mogu.analysis.probing",
    "ProbeResult": "mogu.analysis.probing",
    "choose_layers": "mogu.analysis.choice",
    "cross_validated": "mogu.analysis.linear_probe",
    "probe": "mogu.analysis.probing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mogu.analysis' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
