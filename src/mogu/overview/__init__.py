"""Several runs on one page: what each of them found, in a sentence, with a link to its own page.

Knows the files that `mogu train`, `finetune`, `compare` and `attack` leave; runs and measures nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mogu.attacks import report as attacks
from mogu.errors import DataError
from mogu.evaluation.compare import report as comparison
from mogu.files.atomic import atomic_file
from mogu.files.json_files import read_json
from mogu.finetuning import report_page as finetuning
from mogu.pages import render
from mogu.training import report_page as training


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        name: what it is called.
        results: the file that holds its results.
        page: the file of its own page.
        headline: says what it found, given its results.
    """

    name: str
    results: str
    page: str
    headline: Callable[[dict[str, Any]], str]


KINDS = (
    Kind("training", "training_report.json", training.PAGE_FILE, training.headline),
    Kind("fine-tuning", "finetune_report.json", finetuning.PAGE_FILE, finetuning.headline),
    Kind("comparison", "results.json", "report.html", comparison.headline),
    Kind("attack", "attacks.json", "attacks.html", attacks.headline),
)


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        folder: where it is.
        kind: what it was.
        headline: what it found.
    """

    folder: Path
    kind: Kind
    headline: str


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs that some folders hold, each folder itself or, where it is none, the folders in it.

    Raises:
        DataError: a folder is missing, or holds no run; or a run was left by another release and cannot be read.
    """
    runs: list[Run] = []
    for folder in folders:
        found = _runs_in(folder) if folder.is_dir() else []
        if not found and folder.is_dir():
            found = [run for inner in sorted(folder.iterdir()) if inner.is_dir() for run in _runs_in(inner)]
        if not found:
            raise DataError(
                f"{folder} holds no run" if folder.is_dir() else f"There is no folder {folder}",
                expected="an output folder of `mogu train`, `finetune`, `compare` or `attack`, or a folder of such folders",
                action="name another one",
            )
        runs += found
    return runs


def _runs_in(folder: Path) -> list[Run]:
    return [Run(folder, kind, _headline(folder / kind.results, kind)) for kind in KINDS if (folder / kind.results).is_file()]


def _headline(file: Path, kind: Kind) -> str:
    try:
        return kind.headline(read_json(file) or {})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is no result of a {kind.name} as this release writes it ({type(error).__name__}: {error})",
            expected="what the command left",
            action="make the run again, or leave it out",
        ) from error


def write_overview(runs: Sequence[Run], target: Path) -> None:
    """Write the page; links are relative to it.

    Args:
        runs: the runs, in order.
        target: the HTML file.
    """
    base = target.absolute().parent
    rows = [(run.folder.name or str(run.folder), run.kind.name, run.headline, _link(run, base)) for run in runs]
    shown = {"made": {"versions": {"mogu": version("mogu")}, "command": None}, "rows": rows, "runs": len(runs)}
    with atomic_file(target) as scratch:
        scratch.write_text(render("mogu.overview", "page.html.jinja", shown), encoding="utf-8")


def _link(run: Run, base: Path) -> str | None:
    page = run.folder.absolute() / run.kind.page
    return quote(Path(os.path.relpath(page, base)).as_posix()) if page.is_file() else None
