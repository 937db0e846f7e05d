"""`mogu compare`: defenses and hardened models on the same prompts, measured once each and reported with intervals.

:func:`compare` is all there is to call. Knows the order of the steps; each of them is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from mogu.analysis.answer_openings import AnswerOpenings
from mogu.evaluation.compare.agreement import by_scorer
from mogu.evaluation.compare.cells import Cells
from mogu.evaluation.compare.config import SCORERS, SHIFTS, Comparison, check
from mogu.evaluation.compare.costs import measured_costs
from mogu.evaluation.compare.detection import detection, reliability, roc_curves
from mogu.evaluation.compare.lineup import Lineup, Variant
from mogu.evaluation.compare.metrics import (
    Metric,
    Replies,
    cost_metrics,
    frontier,
    judged_means,
    rates,
    routing_weights,
    wrapper_rates,
)
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.compare.results import (
    REPORT_PAGE,
    RESULTS_FILE,
    TABLE_FILE,
    Results,
    count_prompts,
    provenance,
    samples,
    write_results,
)
from mogu.evaluation.compare.sharing import share_out_cells
from mogu.evaluation.compare.tendency import openings_of, tendency_metrics
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt, judged_by
from mogu.files.atomic import check_replaceable
from mogu.files.json_files import write_json
from mogu.files.outputs import one_process_at
from mogu.progress import quiet_transformers
from mogu.workers import Workers

__all__ = ["REPORT_PAGE", "RESULTS_FILE", "SHIFTS", "TABLE_FILE", "Comparison", "Lineup", "Results", "Variant", "compare"]

MARKER = "mogu_comparison.json"


def compare(comparison: Comparison, workers: Workers | None = None) -> Results:
    """Train what is missing, measure what is missing, and write results and report into ``comparison.out``.

    A comparison that was stopped goes on where it stopped: models that are trained and cells that are finished are taken over.

    Args:
        comparison: the settings.
        workers: who trains and measures what is missing; by default this process. Time is measured by this process alone.

    Raises:
        MoguError: a model, prompts or settings cannot be used, the folder exists and is no comparison's, another process is at it, or
            workers cannot be had.
    """
    check(comparison)
    lineup = Lineup(comparison)
    check_replaceable(comparison.out, marker=MARKER)
    openings = openings_of(comparison)  # before anything that takes time
    prompts = judged_by(read_prompts(comparison.data, limit=comparison.limit, jailbreaks=comparison.jailbreaks), SCORERS[comparison.scorer])
    with quiet_transformers():
        pool = ModelPool(lineup)
        if workers is None:
            _ = pool.base  # what is wrong with it comes to light before anything is written
        with one_process_at(comparison.out):
            write_json(comparison.out / MARKER, {"what": "folder of `mogu compare`: models, cells and results"})
            cells = Cells(pool, prompts)
            if workers is not None:
                share_out_cells(workers, cells, prompts, shared=comparison.out / MARKER)
            results = _measure(cells, openings, prompts)
            write_results(results, comparison.out)
    return results


def _measure(cells: Cells, openings: AnswerOpenings | None, prompts: Sequence[EvalPrompt]) -> Results:
    pool = cells.pool
    comparison, lineup = pool.comparison, pool.lineup
    seeds = range(comparison.seeds)
    for seed in seeds:
        pool.prepare(seed)
    replies: Replies = {variant: [cells.rows(variant, seed) for seed in seeds] for variant in lineup.variants()}
    models = lineup.model_names()
    costs = measured_costs(pool, prompts)
    metrics: list[Metric] = [
        *rates(prompts, replies, models),
        *wrapper_rates(prompts, replies),
        *judged_means(prompts, replies),
        *by_scorer(prompts, replies),
        *cost_metrics(costs, models),
    ]
    metrics += detection(prompts, replies)
    roc: dict[str, list[tuple[float, float]]] = {}
    for model in models[:1]:
        metrics += routing_weights(prompts, replies[Variant(model)], pool.routed_layers(), model)
        roc = roc_curves(prompts, replies[Variant(model)])
    if openings is not None:
        metrics += tendency_metrics(openings, pool, prompts, replies)
    return Results(
        made=provenance(lineup, pool.device, pool.dials()),
        data=count_prompts(prompts),
        numbers=metrics,
        frontier=frontier(metrics),
        roc=roc,
        reliability=reliability(prompts, replies),
        samples=samples(prompts, replies),
    )
