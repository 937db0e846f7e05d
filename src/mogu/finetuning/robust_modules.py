"""The robust modules of ``ml-lr`` and ``swat``: read from a file, or found on the MoGU pairs.

Knows `mogu robustness` and its file; does not know how the model is tuned.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from mogu.analysis.measurement_cache import MeasurementCache
from mogu.analysis.robustness import measure_robustness, search_subset
from mogu.analysis.robustness.map import robustness_fingerprint
from mogu.analysis.robustness.proxy import LabeledPrompts
from mogu.errors import ConfigError, DataError
from mogu.files.text_files import parse_json, read_whole
from mogu.finetuning.inputs import TuningInputs
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.progress import progress_bars

_MOST_BYTES = 2**26

RobustModules = dict[float | None, list[str]]
"""Full names of the robust modules, by the tolerance they were found with; ``None`` for those from a file."""


def robust_modules(recipe: FinetuneRecipe, base: PreTrainedModel, inputs: TuningInputs, folder: Path) -> RobustModules:
    """Find the robust modules that a recipe asks for.

    Args:
        recipe: names a file, or tolerances.
        base: the model, plain.
        inputs: the pairs for the analysis.
        folder: keeps what was measured, so that a run that was stopped can resume.

    Raises:
        MoguError: the file names no modules, or the analysis cannot be made.
    """
    safety, prompt = recipe.safety, recipe.model.system_prompt
    if safety.robust_modules is not None:
        return {None: read_robust_modules(safety.robust_modules)}
    pairs, tokenizer = inputs.pairs["train"], inputs.tokenizer
    prompts = LabeledPrompts.of(base, tokenizer, pairs, system_prompt=prompt, batch_size=safety.batch_size)
    cache = MeasurementCache(folder, robustness_fingerprint(base, prompts))
    with progress_bars() as bars:
        task = bars.add_task("robust modules", total=None, note="")

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        robustness = measure_robustness(
            base,
            tokenizer,
            pairs,
            system_prompt=prompt,
            seed=recipe.run.seed,
            batch_size=safety.batch_size,
            cache=cache,
            progress=show,
        )
        robust: RobustModules = {}
        for tolerance in dict.fromkeys(safety.tolerances):
            subset = search_subset(
                base, tokenizer, pairs, robustness, tolerance=tolerance, batch_size=safety.batch_size, cache=cache, progress=show
            )
            robust[tolerance] = list(subset.names)
            if not robust[tolerance]:
                raise ConfigError(
                    f"At a tolerance of {tolerance:g} no module is robust",
                    expected="at least one module, to learn with the whole learning rate or alone at first",
                    action="raise safety.tolerances",
                )
    return robust


def read_robust_modules(file: Path) -> list[str]:
    """Read the robust modules of a ``robustness.json``.

    Raises:
        DataError: it is missing, or names none.
    """
    try:
        names = parse_json(read_whole(file, _MOST_BYTES))["subset"]["modules"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it names none")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} holds no robust modules ({error!r})",
            expected="a robustness.json of `mogu robustness`, with a subset of at least one module",
            action="make it with `mogu robustness`, with a higher --tolerance if the subset is empty",
        ) from error
    return names
