"""Read the rows of a data set as prompts under test, or as jailbreak templates.

Knows the catalog's columns; knows nothing of Inspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mogu.data.rows import TableRow
from mogu.errors import DataError
from mogu.evaluation.datasets.catalog import DatasetSpec, dataset_spec
from mogu.evaluation.datasets.sources import read_rows
from mogu.evaluation.prompts import Category, EvalPrompt


def read_dataset(spec: DatasetSpec, file: Path | None = None) -> list[EvalPrompt]:
    """Read the prompts of a data set, in its order.

    Args:
        spec: the data set.
        file: where it is, if not in the usual places.

    Raises:
        DataError: it cannot be had, or its columns are not those expected.
    """
    source, rows = read_rows(spec, file)
    columns = _Columns(spec, source, rows[0])
    return [columns.prompt(row, number) for number, row in enumerate(rows[: spec.first], 1)]


def read_templates(file: Path | None = None) -> dict[str, str]:
    """Read published jailbreak prompts by name: from a file, else the catalog's ``jailbreak_prompts``.

    Raises:
        DataError: they cannot be had, or the columns are not those expected.
    """
    spec = dataset_spec("jailbreak_prompts", measures=("templates",))
    source, rows = read_rows(spec, file)
    columns = _Columns(spec, source, rows[0])
    templates: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        template = columns.prompt(row, number)
        name = template.group or f"jailbreak-{number:02d}"
        templates[name if name not in templates else f"{name}-{number:02d}"] = template.request
    return templates


class _Columns:
    """Which columns of a source hold prompts, groups, contexts and labels."""

    def __init__(self, spec: DatasetSpec, source: str, first: TableRow) -> None:
        self.spec, self.source = spec, source
        self.names = list(first.fields)
        names = {name.strip().lower(): name for name in self.names}

        def known(candidates: Sequence[str]) -> str | None:
            return next((names[name] for name in candidates if name in names), None)

        prompt = known(spec.prompt)
        if prompt is None:
            raise self._unknown("its prompts", spec.prompt)
        self._prompt = prompt
        self._group, self._context, self._label = known(spec.group), known(spec.context), known(spec.label)
        if spec.label and self._label is None:
            raise self._unknown("which prompts are safe", spec.label)

    def prompt(self, row: TableRow, number: int) -> EvalPrompt:
        """The prompt of one row: its first turn, since the later ones answer to what was said before."""
        group = row.fields.get(self._group) if self._group else None
        first, *later = self._turns(row)
        return EvalPrompt.plain(
            f"{self.spec.name}-{number:04d}",
            self.spec.name,
            self._category(row),
            first,
            group=str(group).strip() if group not in (None, "") else None,
            later_turns=tuple(later),
        )

    def _turns(self, row: TableRow) -> tuple[str, ...]:
        value = row.fields.get(self._prompt)
        turns = value if isinstance(value, list) else [value]
        texts = [turn.strip() for turn in turns if isinstance(turn, str)]
        if len(texts) < len(turns) or not texts or not all(texts):
            raise DataError(
                f"{self._position(row)}: {self._prompt!r} holds {_shown(value)}", expected="text", action="correct or delete the row"
            )
        context = row.fields.get(self._context) if self._context else None
        if isinstance(context, str) and context.strip():
            texts[0] = f"{context.strip()}\n\n{texts[0]}"
        return tuple(texts)

    def _category(self, row: TableRow) -> Category:
        if self._label is None:
            return "malicious" if self.spec.measures in ("malicious", "templates") else "benign"
        match row.fields.get(self._label):
            case "safe":
                return "borderline" if self.spec.measures == "contrast" else "benign"
            case "unsafe":
                return "malicious"
            case value:
                raise DataError(
                    f"{self._position(row)}: {self._label!r} holds {_shown(value)}",
                    expected="'safe' or 'unsafe'",
                    action="correct or delete the row",
                )

    def _position(self, row: TableRow) -> str:
        return f"{self.source}, line {row.line}"

    def _unknown(self, what: str, expected: Sequence[str]) -> DataError:
        return DataError(
            f"{self.source} has the columns {', '.join(map(repr, self.names))}; none of them is known to hold {what}",
            expected=f"a column named {' or '.join(map(repr, expected))} for the data set {self.spec.name}",
            action="rename the column that holds it",
        )


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
