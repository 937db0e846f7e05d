"""The robust subset: modules that noise may be put on together without the proxy suffering much.

Knows the map and how drops are measured; knows nothing of files or of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.measurement_cache import Measured
from mogu.analysis.probing import Progress
from mogu.analysis.robustness.map import BATCH_SIZE, RobustnessMap, Suffering, linear_modules, proxy_of
from mogu.analysis.robustness.proxy import Prompts
from mogu.data import Record
from mogu.errors import ConfigError

TOLERANCE = 0.25
"""By default the robust modules may make the proxy suffer a quarter as much as all modules do: a sixteenth of the mean square."""


@dataclass(frozen=True)
class RobustSubset:
    """What a search found.

    Args:
        names: full names of the robust modules, layer by layer.
        drop: the drop when these are perturbed together; 0 where there are none.
        tolerance: the share of ``RobustnessMap.together`` that it may reach.
    """

    names: tuple[str, ...]
    drop: float
    tolerance: float


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that would take in nothing or everything.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < tolerance < 1:
        raise ConfigError(
            f"The tolerance is {tolerance:g}",
            expected="a number between 0 and 1: a share of what the proxy suffers when all modules are perturbed",
            action=f"give --tolerance {TOLERANCE:g}",
        )


def search_subset(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    found: RobustnessMap,
    *,
    tolerance: float = TOLERANCE,
    batch_size: int = BATCH_SIZE,
    measured: Measured | None = None,
    progress: Progress = lambda what, done, total: None,
) -> RobustSubset:
    """Collect modules, those with the smallest drops first, while the proxy, with all of them perturbed *together*, bears it.

    What modules do together is measured, not added up from what each does alone. In order of their drops, the longest prefix whose
    joint drop is at most ``tolerance · found.together`` is found by halving; then every later module is tried in turn, and stays if the
    joint drop with it is still within that bound. For ``n`` modules these are about ``log2 n`` and at most ``n`` measurements.

    Args:
        model: the one of the map, intact; it has the same weights afterwards, bit for bit.
        tokenizer: with a chat template.
        records: those of the map.
        found: the map; its strength, draws, seed and system prompt count here as well.
        tolerance: a share of ``found.together``.
        batch_size: prompts a pass.
        measured: as for :func:`~mogu.analysis.robustness.map.measure_robustness`.
        progress: is told how far things are.

    Raises:
        ConfigError: the tolerance is out of range, or the map is of another model.
        MoguError: as for the map.
    """
    check_tolerance(tolerance)
    modules = {module.name: module for _, module in linear_modules(model)}
    if set(modules) != {one.name for one in found.modules}:
        raise ConfigError(
            f"The map has {len(found.modules)} modules, the model {len(modules)}, and they are not the same",
            expected="the map of this model",
            action="measure this model",
        )
    prompts = Prompts.of(model, tokenizer, records, system_prompt=found.system_prompt, batch_size=batch_size)
    proxy = proxy_of(model, prompts, found.seed, progress)
    suffering = Suffering(proxy, strength=found.strength, draws=found.draws, seed=found.seed, measured=measured)
    order = [modules[one.name] for one in sorted(found.modules, key=lambda one: one.drop)]
    bound = tolerance * found.together

    low, high, drop = 0, len(order), 0.0  # the longest prefix lies at `low` or beyond, and below `high`: all modules are too many
    while high - low > 1:
        middle = (low + high) // 2
        tried = suffering.drop(order[:middle])
        if tried <= bound:
            low, drop = middle, tried
        else:
            high = middle
    robust = order[:low]
    for place, module in enumerate(order[low:], low):
        tried = suffering.drop([*robust, module])
        if tried <= bound:
            robust, drop = [*robust, module], tried
        progress("searching the robust subset", place + 1, len(order))
    chosen = {module.name for module in robust}
    return RobustSubset(tuple(name for name in modules if name in chosen), drop, tolerance)
