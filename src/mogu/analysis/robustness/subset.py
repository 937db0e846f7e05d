"""The robust subset: modules that can be perturbed together without harming the proxy much.

Knows the map and how drops are measured; knows nothing of files or of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.measurement_cache import MeasurementCache
from mogu.analysis.probing import ProgressCallback
from mogu.analysis.robustness.map import BATCH_SIZE, DropEstimator, RobustnessMap, linear_modules, proxy_of
from mogu.analysis.robustness.proxy import LabeledPrompts
from mogu.data import Record
from mogu.errors import ConfigError

TOLERANCE = 0.25
"""By default, perturbing the robust modules may cause a quarter of the drop of all modules: a sixteenth of the mean square."""


@dataclass(frozen=True)
class RobustSubset:
    """The result of a search.

    Args:
        names: full names of the robust modules, layer by layer.
        drop: the drop when these are perturbed together; 0 where there are none.
        tolerance: the share of ``RobustnessMap.together`` that ``drop`` may reach.
    """

    names: tuple[str, ...]
    drop: float
    tolerance: float


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance at which no module or every module would be robust.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < tolerance < 1:
        raise ConfigError(
            f"The tolerance is {tolerance:g}",
            expected="a number between 0 and 1: a share of the drop when all modules are perturbed",
            action=f"give --tolerance {TOLERANCE:g}",
        )


def search_subset(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    robustness: RobustnessMap,
    *,
    tolerance: float = TOLERANCE,
    batch_size: int = BATCH_SIZE,
    cache: MeasurementCache | None = None,
    progress: ProgressCallback = lambda step, done, total: None,
) -> RobustSubset:
    """Collect modules, those with the smallest drops first, as long as the drop with all of them perturbed *together* stays small.

    The joint drop is measured, not added up from the drops of single modules. Modules are sorted by their drops. Bisection finds the
    longest prefix with a joint drop of at most ``tolerance · robustness.together``; then every later module is tried in turn, and
    stays if the joint drop with it is still within that bound. For ``n`` modules this takes about ``log2 n`` and then at most ``n``
    measurements.

    Args:
        model: the intact model of the map; its weights are the same afterwards, bit for bit.
        tokenizer: a tokenizer with a chat template.
        records: the records of the map.
        robustness: the map; its strength, draws, seed, proxy and system prompt are used here as well.
        tolerance: a share of ``robustness.together``.
        batch_size: number of prompts in one forward pass.
        cache: as for :func:`~mogu.analysis.robustness.map.measure_robustness`.
        progress: called as the search advances.

    Raises:
        ConfigError: the tolerance is out of range, or the map belongs to another model.
        MoguError: as for the map.
    """
    check_tolerance(tolerance)
    modules = {module.name: module for _, module in linear_modules(model)}
    if set(modules) != {module.name for module in robustness.modules}:
        raise ConfigError(
            f"The map has {len(robustness.modules)} modules, the model {len(modules)}, and they are not the same",
            expected="the map of this model",
            action="measure this model",
        )
    prompts = LabeledPrompts.of(
        model, tokenizer, records, system_prompt=robustness.system_prompt, batch_size=batch_size, kind=robustness.proxy
    )
    proxy = proxy_of(model, prompts, robustness.seed, progress)
    estimator = DropEstimator(proxy, strength=robustness.strength, draws=robustness.draws, seed=robustness.seed, cache=cache)
    order = [modules[module.name] for module in sorted(robustness.modules, key=lambda module: module.drop)]
    bound = tolerance * robustness.together

    # The longest prefix has at least `low` modules and fewer than `high`, since all modules together exceed the bound.
    low, high, drop = 0, len(order), 0.0
    while high - low > 1:
        middle = (low + high) // 2
        joint_drop = estimator.drop(order[:middle])
        if joint_drop <= bound:
            low, drop = middle, joint_drop
        else:
            high = middle
    robust = order[:low]
    for index, candidate in enumerate(order[low:], low):
        joint_drop = estimator.drop([*robust, candidate])
        if joint_drop <= bound:
            robust, drop = [*robust, candidate], joint_drop
        progress("searching the robust subset", index + 1, len(order))
    names = {module.name for module in robust}
    return RobustSubset(tuple(name for name in modules if name in names), drop, tolerance)
