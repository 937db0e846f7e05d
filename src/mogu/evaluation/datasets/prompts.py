"""From the rows of a data set to what is asked: prompts with their kind and group, and jailbreak templates.

Knows the catalog's columns; knows nothing of Inspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mogu.data.rows import TableRow
from mogu.errors import DataError
from mogu.evaluation.datasets.catalog import DatasetSpec, dataset_spec
from mogu.evaluation.datasets.sources import read_rows


@dataclass(frozen=True)
class EvaluationPrompt:
    """One prompt of a data set.

    Args:
        id: unique within all data sets.
        dataset: the set's name.
        kind: whether it should be answered or refused.
        turns: the user's messages; all but MT-bench's are one.
        group: what the set calls it: a category or a type; ``None`` where it says nothing.
    """

    id: str
    dataset: str
    kind: Literal["benign", "malicious"]
    turns: tuple[str, ...]
    group: str | None


def read_prompts(spec: DatasetSpec, file: Path | None = None) -> list[EvaluationPrompt]:
    """The prompts of a data set, in its order.

    Raises:
        DataError: it cannot be had, or its columns are not those expected.
    """
    source, rows = read_rows(spec, file)
    columns = _Columns(spec, source, rows[0])
    return [columns.prompt(row, number) for number, row in enumerate(rows[: spec.first], 1)]


def read_templates(file: Path | None = None) -> dict[str, str]:
    """Published jailbreak prompts by name: from a file, else the catalog's ``jailbreak_prompts``.

    Raises:
        DataError: they cannot be had, or the columns are not those expected.
    """
    spec = dataset_spec("jailbreak_prompts", measures=("templates",))
    source, rows = read_rows(spec, file)
    columns = _Columns(spec, source, rows[0])
    templates: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        one = columns.prompt(row, number)
        name = one.group or f"jailbreak-{number:02d}"
        templates[name if name not in templates else f"{name}-{number:02d}"] = one.turns[0]
    return templates


class _Columns:
    """Which column of a source is what."""

    def __init__(self, spec: DatasetSpec, source: str, first: TableRow) -> None:
        self.spec, self.source = spec, source
        self.found = list(first.fields)
        names = {name.strip().lower(): name for name in self.found}

        def known(candidates: Sequence[str]) -> str | None:
            return next((names[name] for name in candidates if name in names), None)

        prompt = known(spec.prompt)
        if prompt is None:
            raise self._unknown("its prompts", spec.prompt)
        self._prompt = prompt
        self._group, self._context, self._label = known(spec.group), known(spec.context), known(spec.label)
        if spec.label and self._label is None:
            raise self._unknown("which prompts are safe", spec.label)

    def prompt(self, row: TableRow, number: int) -> EvaluationPrompt:
        """The prompt of one row."""
        fields = row.fields
        group = fields.get(self._group) if self._group else None
        return EvaluationPrompt(
            id=f"{self.spec.name}-{number:04d}",
            dataset=self.spec.name,
            kind=self._kind(row),
            turns=self._turns(row),
            group=str(group).strip() if group not in (None, "") else None,
        )

    def _turns(self, row: TableRow) -> tuple[str, ...]:
        value = row.fields.get(self._prompt)
        turns = value if isinstance(value, list) else [value]
        texts = [turn.strip() for turn in turns if isinstance(turn, str)]
        if len(texts) < len(turns) or not texts or not all(texts):
            raise DataError(f"{self._place(row)}: {self._prompt!r} holds {_shown(value)}", expected="text", action="mend or delete the row")
        context = row.fields.get(self._context) if self._context else None
        if isinstance(context, str) and context.strip():
            texts[0] = f"{context.strip()}\n\n{texts[0]}"
        return tuple(texts)

    def _kind(self, row: TableRow) -> Literal["benign", "malicious"]:
        if self._label is None:
            return "malicious" if self.spec.measures in ("malicious", "templates") else "benign"
        match row.fields.get(self._label):
            case "safe":
                return "benign"
            case "unsafe":
                return "malicious"
            case value:
                raise DataError(
                    f"{self._place(row)}: {self._label!r} holds {_shown(value)}",
                    expected="'safe' or 'unsafe'",
                    action="mend or delete the row",
                )

    def _place(self, row: TableRow) -> str:
        return f"{self.source}, line {row.line}"

    def _unknown(self, what: str, expected: Sequence[str]) -> DataError:
        return DataError(
            f"{self.source} has the columns {', '.join(map(repr, self.found))}; none of them is known to hold {what}",
            expected=f"a column named {' or '.join(map(repr, expected))} for the data set {self.spec.name}",
            action="rename the column that holds it",
        )


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
