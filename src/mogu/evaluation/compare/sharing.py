"""What workers make of a comparison: first the models and baselines of every seed, then the cells.

Knows what needs what; knows nothing of how a worker is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mogu.evaluation.compare.cells import CellKey, Cells
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.lineup import Lineup
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.atomic import remove_leftovers
from mogu.progress import quiet_transformers
from mogu.workers import Workers, share_out


@dataclass(frozen=True)
class Training:
    """A model, or the baselines, of a seed.

    Args:
        name: as :meth:`ModelPool.trainings` calls it.
        seed: the seed.
    """

    name: str
    seed: int

    def __str__(self) -> str:
        return f"seed {self.seed}, training of {self.name}"


def untrained(pool: ModelPool, seeds: int) -> list[Training]:
    """What is not trained yet, of the first so many seeds."""
    tasks = [Training(name, seed) for seed in range(seeds) for name in pool.trainings()]
    return [task for task in tasks if not pool.is_trained(task.name, task.seed)]


def share_out_cells(workers: Workers, cells: Cells, prompts: Sequence[EvalPrompt], *, shared: Path) -> None:
    """Let workers train what is not trained and measure what is not measured.

    Args:
        workers: how many, and where.
        cells: the cells of the comparison.
        prompts: all prompts.
        shared: a file in its folder.

    Raises:
        MoguError: see :func:`mogu.workers.share_out`.
    """
    comparison = cells.comparison
    share_out(workers, _rounds(cells), partial(_maker, comparison, prompts), shared=shared)
    remove_leftovers(comparison.out)  # of workers that were lost


def _rounds(cells: Cells) -> Iterator[Sequence[Training | CellKey]]:
    yield untrained(cells.pool, cells.comparison.seeds)
    yield cells.missing()  # which they are depends on what was trained


def _maker(comparison: Comparison, prompts: Sequence[EvalPrompt]) -> Callable[[Training | CellKey], object]:
    pool = ModelPool(Lineup(comparison))
    cells = Cells(pool, prompts)

    def make(task: Training | CellKey) -> None:
        with quiet_transformers():
            if isinstance(task, Training):
                pool.train(task.name, task.seed)
            else:
                cells.cell(task)

    return make
