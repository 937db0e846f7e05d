"""Read the rows of a data set as prompts under test, or as jailbreak templates.

Knows the catalog's columns; knows nothing of Inspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from mogu.data.instructions import stands_for_nothing
from mogu.data.rows import TableRow
from mogu.data.templates import unknown_mark
from mogu.errors import DataError
from mogu.evaluation.datasets.catalog import DatasetSpec, Measures, dataset_spec
from mogu.evaluation.datasets.sources import read_rows
from mogu.evaluation.prompts import Category, EvalPrompt

PUBLISHED = "jailbreak_prompts"
"""The templates that are meant where no other data set is named."""

_SAFE, _UNSAFE = ("safe", "unharmful"), ("unsafe", "harmful")

logger = getLogger(__name__)


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
    parts = [(number, row) for number, row in enumerate(rows, 1) if columns.is_part(row)][slice(*spec.rows)]
    prompts = [columns.prompt(row, number) for number, row in parts if not (spec.sparse and columns.lacks(row))]
    if not prompts:
        raise DataError(
            f"{source} holds no prompt of {spec.name}",
            expected=f"rows whose {' or '.join(spec.part)} is {spec.part_name!r}" if spec.part else "rows with prompts",
            action="check that it is this data set, and whole",
        )
    if len(parts) > len(prompts):
        logger.info(
            "%s: %d of %d rows are left out, because they have no prompt or no label", source, len(parts) - len(prompts), len(parts)
        )
    for what, found, wanted in (("rows", len(rows), spec.whole), ("prompts", len(prompts), spec.size)):
        if wanted is not None and found not in (wanted, spec.size):
            logger.warning("%s: %d %s, and %s has %d (%s)", source, found, what, spec.name, wanted, spec.paper)
    return prompts


def read_templates(file: Path | None = None, name: str = PUBLISHED) -> dict[str, str]:
    """Read published jailbreak prompts by name.

    Args:
        file: where they are, if not in the usual places.
        name: of the data set.

    Raises:
        DataError: they cannot be had, the columns are not those expected, or a template has an unknown mark.
        ConfigError: there is no such data set of templates.
    """
    spec = dataset_spec(name, measures=("templates",))
    source, rows = read_rows(spec, file)
    columns = _Columns(spec, source, rows[0])
    templates: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        template = columns.prompt(row, number)
        if (mark := unknown_mark(template.request)) is not None:
            raise DataError(
                f"{source}, line {row.line}: {mark!r} looks like the place of the request, and is not spelled like one",
                expected="a mark such as [INSERT PROMPT HERE] or {request}, or none",
                action="spell it so, or delete the row",
            )
        called = template.group or f"jailbreak-{number:02d}"
        templates[called if called not in templates else f"{called}-{number:02d}"] = template.request
    return templates


_CATEGORIES: dict[Measures, Category] = {
    "malicious": "malicious",
    "benign": "benign",
    "contrast": "borderline",
    "jailbroken": "malicious_wrapped",
    "templates": "malicious",
}
"""What prompts are that no label calls malicious."""


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
        self._part, self._goal = known(spec.part), known(spec.goal)
        if spec.label and self._label is None:
            raise self._unknown("which prompts are safe", spec.label)
        if spec.goal and self._goal is None:
            raise self._unknown("what prompts are after", spec.goal)

    def is_part(self, row: TableRow) -> bool:
        """Whether a row belongs to the part of the data set that is read; where no column tells, all do."""
        return self._part is None or str(row.fields.get(self._part)).strip().lower() == self.spec.part_name

    def lacks(self, row: TableRow) -> bool:
        """Whether a row has no prompt, or no label where there should be one."""
        return any(row.fields.get(name) in (None, "") for name in (self._prompt, self._label) if name is not None)

    def prompt(self, row: TableRow, number: int) -> EvalPrompt:
        """The prompt of one row: its first turn, since the later ones answer to what was said before."""
        group = row.fields.get(self._group) if self._group else None
        first, *later = self._turns(row, self._prompt)
        goal = self._turns(row, self._goal)[0] if self._goal is not None else None
        return EvalPrompt(
            id=f"{self.spec.name}-{number:04d}",
            dataset=self.spec.name,
            category=self._category(row),
            conversation=({"role": "user", "content": first},),
            request=goal or first,
            wrapper=self.spec.name if goal is not None else None,
            group=str(group).strip() if group not in (None, "") else None,
            later_turns=tuple(later),
        )

    def _turns(self, row: TableRow, column: str) -> tuple[str, ...]:
        value = row.fields.get(column)
        turns = value if isinstance(value, list) else [value]
        texts = [turn.strip() for turn in turns if isinstance(turn, str)]
        if len(texts) < len(turns) or not texts or not all(texts):
            raise DataError(f"{self._position(row)}: {column!r} holds {_shown(value)}", expected="text", action="correct or delete the row")
        context = row.fields.get(self._context) if self._context else None
        if isinstance(context, str) and context.strip() and not stands_for_nothing(context):
            texts[0] = f"{context.strip()}\n\n{texts[0]}"
        return tuple(texts)

    def _category(self, row: TableRow) -> Category:
        if self._label is None:
            return _CATEGORIES[self.spec.measures]
        match row.fields.get(self._label):
            case value if value in _SAFE:
                return _CATEGORIES[self.spec.measures]
            case value if value in _UNSAFE:
                return "malicious"
            case value:
                raise DataError(
                    f"{self._position(row)}: {self._label!r} holds {_shown(value)}",
                    expected=" or ".join(map(repr, (*_SAFE, *_UNSAFE))),
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
