"""`mogu compare`: a grid of defenses, data sets and seeds, measured once each and reported with intervals.

:func:`compare` is all there is to call. Knows the order of things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mogu.analysis.answer_openings import AnswerOpenings
from mogu.evaluation.compare.cells import Cells
from mogu.evaluation.compare.config import LAB_MODEL, SHIFTS, Comparison, Variant, check
from mogu.evaluation.compare.costs import measured_costs
from mogu.evaluation.compare.metrics import Grid, cost_numbers, detector, frontier, judged_means, rates, routing_weights, wrapper_rates
from mogu.evaluation.compare.model_pool import Models
from mogu.evaluation.compare.results import REPORT_PAGE, RESULTS_FILE, TABLE_FILE, Results, counted, made_how, samples, write_results
from mogu.evaluation.compare.tendency import openings_of, tendency_numbers
from mogu.evaluation.prompts import Asked, read_asked
from mogu.files.atomic import check_replaceable
from mogu.files.json_files import write_json
from mogu.progress import quiet_transformers

__all__ = ["LAB_MODEL", "REPORT_PAGE", "RESULTS_FILE", "SHIFTS", "TABLE_FILE", "Comparison", "Results", "Variant", "compare"]

MARKER = "mogu_comparison.json"


def compare(comparison: Comparison, *, tell: Callable[[str], None] = print) -> Results:
    """Train what is missing, measure what is missing, and write results and report into ``comparison.out``.

    A comparison that was stopped goes on where it stopped: models that are trained and cells that are finished are taken over.

    Args:
        comparison: what is compared.
        tell: is told what happens, a line at a time.

    Raises:
        MoguError: a model, prompts or settings cannot be used, or the folder is somebody else's.
    """
    check(comparison)
    check_replaceable(comparison.out, marker=MARKER)
    banks = openings_of(comparison)  # before anything that takes time
    asked = read_asked(comparison.data, limit=comparison.limit, jailbreaks=comparison.jailbreaks)
    with quiet_transformers():
        results = _measured(comparison, banks, asked, tell)
    write_results(results, comparison.out)
    return results


def _measured(comparison: Comparison, banks: AnswerOpenings | None, asked: Sequence[Asked], tell: Callable[[str], None]) -> Results:
    models = Models(comparison, tell=tell)
    write_json(comparison.out / MARKER, {"what": "folder of `mogu compare`: models, cells and results"})
    cells = Cells(comparison, models, asked, tell=tell)
    seeds = range(comparison.seeds)
    for seed in seeds:
        models.prepare(seed)
    grid: Grid = {variant: [cells.rows(variant, seed) for seed in seeds] for variant in comparison.variants()}
    costs = measured_costs(comparison, models, asked, tell=tell)
    numbers = [*rates(asked, grid), *wrapper_rates(asked, grid), *judged_means(asked, grid), *cost_numbers(costs)]
    roc: dict[str, list[tuple[float, float]]] = {}
    if (routed := grid.get(Variant("mogu"))) is not None:
        numbers += routing_weights(asked, routed, models.routed_layers())
        found, roc = detector(asked, routed)
        numbers += found
    if banks is not None:
        numbers += tendency_numbers(comparison, banks, models, asked, grid, tell=tell)
    return Results(
        made=made_how(comparison, models.device, models.dials()),
        data=counted(asked),
        numbers=numbers,
        frontier=frontier(numbers),
        roc=roc,
        samples=samples(asked, grid),
    )
