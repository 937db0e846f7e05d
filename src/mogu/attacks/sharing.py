"""What workers make of an attack report: first the models that are trained, then the cells.

Knows what needs what; knows nothing of how a worker is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mogu.attacks.attempt import attack_info
from mogu.attacks.cells import Cells
from mogu.attacks.config import AttackSettings
from mogu.evaluation.compare import Lineup
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.compare.sharing import Training, untrained
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.atomic import remove_leftovers
from mogu.progress import quiet_transformers
from mogu.workers import Workers, share_out


@dataclass(frozen=True)
class Attack:
    """A cell.

    Args:
        attack: name of the attack.
        system: what it is made on.
    """

    attack: str
    system: str

    def __str__(self) -> str:
        return f"{self.system}, {self.attack}"


def share_out_cells(workers: Workers, cells: Cells, attacks: Sequence[str], *, shared: Path) -> None:
    """Let workers train what is not trained and run what is missing of the attacks.

    Args:
        workers: how many, and where.
        cells: the cells of the report.
        attacks: names of the attacks that are made.
        shared: a file in the folder of the report.

    Raises:
        MoguError: see :func:`mogu.workers.share_out`.
    """
    share_out(workers, _rounds(cells, attacks), partial(_maker, cells.settings, cells.behaviors), shared=shared)
    remove_leftovers(cells.settings.comparison.out)  # of workers that were lost


def _rounds(cells: Cells, attacks: Sequence[str]) -> Iterator[Sequence[Training | Attack]]:
    yield untrained(cells.pool, 1)
    # The longest first: the last worker to be done keeps all others waiting.
    by_length = sorted(attacks, key=lambda attack: attack_info(attack).access != "gradients")
    tasks = [Attack(attack, system) for attack in by_length for system in cells.pool.lineup.names()]
    yield [task for task in tasks if not cells.is_finished(task.attack, task.system)]


def _maker(settings: AttackSettings, behaviors: Sequence[EvalPrompt]) -> Callable[[Training | Attack], object]:
    pool = ModelPool(Lineup(settings.comparison))
    cells = Cells(pool, settings, behaviors)

    def make(task: Training | Attack) -> None:
        with quiet_transformers():
            if isinstance(task, Training):
                pool.train(task.name, task.seed)
            elif cells.applies(task.attack, task.system):
                cells.results(task.attack, task.system)

    return make
