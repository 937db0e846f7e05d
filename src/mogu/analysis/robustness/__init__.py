"""Module robustness for secure fine-tuning (ML-LR): which modules can change without harming the model's sense of what is malicious."""

from mogu.analysis.robustness.analysis import Robustness, RobustnessResult, analyze_robustness
from mogu.analysis.robustness.map import ModuleRobustness, RobustnessMap, measure_robustness
from mogu.analysis.robustness.subset import RobustSubset, search_subset

__all__ = [
    "ModuleRobustness",
    "RobustSubset",
    "Robustness",
    "RobustnessMap",
    "RobustnessResult",
    "analyze_robustness",
    "measure_robustness",
    "search_subset",
]
