"""`mogu attack`: every chosen attack on every chosen system, run once each and reported with intervals.

:func:`attack_models` is all there is to call. Knows the order of the steps; each of them is in a file of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mogu.attacks.attempt import AttackInfo, attack_info
from mogu.attacks.cells import Cells
from mogu.attacks.config import AttackSettings
from mogu.attacks.results import as_json, write_results
from mogu.attacks.runner import BehaviorResult
from mogu.attacks.sharing import share_out_cells
from mogu.errors import ConfigError
from mogu.evaluation.compare import Lineup
from mogu.evaluation.compare.config import SCORERS
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.compare.results import provenance
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt, judged_by
from mogu.files.atomic import check_replaceable
from mogu.files.json_files import write_json
from mogu.files.outputs import one_process_at
from mogu.progress import quiet_transformers
from mogu.workers import Workers

MARKER = "mogu_attack.json"


def attack_models(settings: AttackSettings, workers: Workers | None = None) -> dict[str, Any]:
    """Run what is missing, and write results, report and logs into the output folder; returns what ``attacks.json`` holds.

    An attack that was stopped goes on where it stopped.

    Args:
        settings: the settings.
        workers: who runs what is missing; by default this process.

    Raises:
        MoguError: a model, prompts or settings cannot be used, the folder exists and is not ours, another process is at it, or workers
            cannot be had.
    """
    settings.check()
    attacks = settings.chosen()
    comparison = settings.comparison
    lineup = Lineup(comparison)
    check_replaceable(comparison.out, marker=MARKER)
    behaviors = read_behaviors(settings)
    with quiet_transformers():
        pool = ModelPool(lineup)
        if workers is None:
            _ = pool.base  # what is wrong with it comes to light before anything is written
        with one_process_at(comparison.out):
            write_json(comparison.out / MARKER, {"what": "folder of `mogu attack`: models, cells and results"})
            cells = Cells(pool, settings, behaviors)
            if workers is not None:
                share_out_cells(workers, cells, attacks, shared=comparison.out / MARKER)
            return _attack(cells, attacks)


def _attack(cells: Cells, attacks: Sequence[str]) -> dict[str, Any]:
    from mogu.attacks.inspect_log import write_log  # Inspect is an extra, which whoever makes a single attack can do without

    pool, settings, behaviors = cells.pool, cells.settings, cells.behaviors
    comparison, lineup = settings.comparison, pool.lineup
    pool.prepare(0)
    pairs = [(attack, system) for attack in attacks for system in lineup.names() if cells.applies(attack, system)]
    if not pairs:
        raise ConfigError(
            f"{', '.join(attacks)} has nothing to do on {', '.join(lineup.names())}",
            expected="an attack that fits a model: changed weights need the weights that they change, aware attacks a defense",
            action="name other attacks or other defenses",
        )
    results: dict[str, dict[str, list[BehaviorResult]]] = {system: {} for system in lineup.names()}
    for attack, system in pairs:
        results[system][attack] = cells.results(attack, system)
    made = provenance(lineup, pool.device, pool.dials()) | _how(settings, attacks, behaviors)
    report = as_json(made, results)
    write_results(report, comparison.out)
    for system, by_attack in results.items():
        write_log(comparison.out / "logs" / f"{system}.eval", lineup[system].label, behaviors, by_attack, keep=settings.keep_replies)
    return report


def read_behaviors(settings: AttackSettings) -> list[EvalPrompt]:
    """The plain malicious requests of the data that the settings name.

    Raises:
        MoguError: the data cannot be read, or holds none.
    """
    comparison = settings.comparison
    prompts = read_prompts(comparison.data)
    malicious = [prompt for prompt in prompts if prompt.category == "malicious"][: comparison.limit]
    if not malicious:
        raise ConfigError(
            f"The data {', '.join(comparison.data)} has no malicious requests",
            expected="plain malicious requests to ask a model in other ways",
            action="name data that has some, such as starter or malicious=FILE",
        )
    if repeated := [name for name, count in Counter(prompt.id for prompt in malicious).items() if count > 1]:
        raise ConfigError(f"Two requests are called {repeated[0]}", expected="ids of their own", action="name one data set at a time")
    return judged_by(malicious, SCORERS[comparison.scorer])


def _how(settings: AttackSettings, attacks: Sequence[str], behaviors: Sequence[EvalPrompt]) -> dict[str, Any]:
    known: dict[str, AttackInfo] = {name: attack_info(name) for name in attacks}
    return {
        "behaviors": len(behaviors),
        "data": list(settings.comparison.data),
        "attacks": {
            name: {"label": info.label, "family": info.family, "access": info.access, "aware": info.aware, "queries": info.queries}
            for name, info in known.items()
        },
        "queries": settings.queries,
        "flops": settings.flops,
        "options": dict(settings.options),
    }
