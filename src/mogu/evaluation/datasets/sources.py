"""Read the rows of a data set, from a local file or from the hub.

Knows files and the hub; knows nothing of what the rows are for. A data set that is missing is one error that says how to supply it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from logging import ERROR
from pathlib import Path

from mogu.data.rows import TableRow, csv_rows, good_lines, jsonl_rows
from mogu.errors import DataError
from mogu.evaluation.datasets.catalog import DatasetSpec
from mogu.files.text_files import parse_json, read_whole

DATA_DIR = "MOGU_DATA_DIR"
"""Environment variable that names a folder of data sets, each in a file named after it."""

_ENDINGS = (".csv", ".jsonl", ".json", ".txt")
_MAX_JSON_BYTES = 64 * 1024 * 1024


def read_rows(spec: DatasetSpec, file: Path | None = None) -> tuple[str, list[TableRow]]:
    """Read the rows of a data set: from the given file, else from a file in ``$MOGU_DATA_DIR``, else from the hub.

    Returns:
        Where the rows come from, and the rows.

    Raises:
        DataError: the data set is not available, or the file cannot be read.
    """
    file = file or _in_data_dir(spec.file or spec.name)
    if file is not None:
        return str(file), _file_rows(file, spec)
    return spec.hub, _hub_rows(spec)


def _in_data_dir(name: str) -> Path | None:
    folder = os.environ.get(DATA_DIR)
    if not folder:
        return None
    candidates = (Path(folder).expanduser() / f"{name}{ending}" for ending in _ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _file_rows(path: Path, spec: DatasetSpec) -> list[TableRow]:
    match path.suffix.lower():
        case ".txt":
            rows = [TableRow(number, {spec.prompt[0]: text}) for number, text in good_lines(path) if text.strip()]
        case ".csv":
            rows = list(csv_rows(path))
        case ".jsonl":
            rows = list(jsonl_rows(path))
        case ".json":
            rows = _json_rows(path, spec)
        case ending:
            raise DataError(
                f"{path} ends in {ending or 'nothing'!r}",
                expected=f"a file ending in {', '.join(_ENDINGS)}",
                action="convert or rename the file",
            )
    if not rows:
        raise DataError(f"{path} holds no rows", expected="at least one", action="check how the file was made")
    return rows


def _json_rows(path: Path, spec: DatasetSpec) -> list[TableRow]:
    try:
        value = parse_json(read_whole(path, _MAX_JSON_BYTES))
    except ValueError as error:
        raise DataError(f"{path} {error}", expected="a JSON list", action="correct the file") from error
    if isinstance(value, dict) and spec.config in value:
        value = value[spec.config]
    if not isinstance(value, list) or not all(isinstance(item, (dict, str)) for item in value):
        raise DataError(
            f"{path} contains no list of objects or texts", expected="a JSON list of them", action="rewrite it as such a list, or as JSONL"
        )
    return [TableRow(number, {spec.prompt[0]: item} if isinstance(item, str) else item) for number, item in enumerate(value, 1)]


def _hub_rows(spec: DatasetSpec) -> list[TableRow]:
    from datasets import load_dataset
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # otherwise each attempt logs a warning before the one error that says what to do
    try:
        if spec.hub.startswith("https://"):
            kind = "csv" if spec.hub.endswith(".csv") else "json"
            field = {} if spec.config is None else {"field": spec.config}
            table = load_dataset(kind, data_files=spec.hub, split=spec.split, **field)
        else:
            table = load_dataset(spec.hub, spec.config, split=spec.split)
    except Exception as error:  # the hub's client lets errors of all its layers through
        raise _missing(spec, error) from error
    finally:
        logging.set_verbosity(verbosity)
    rows: list[Mapping[str, object]] = list(table)
    return [TableRow(number, row) for number, row in enumerate(rows, 1)]


def _missing(spec: DatasetSpec, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    where = spec.hub if spec.hub.startswith("https://") else f"the hub ({spec.hub})"
    terms = f"accept its terms at https://huggingface.co/datasets/{spec.hub} and log in, or " if spec.gated else ""
    return DataError(
        f"The data set {spec.name} could not be loaded from {where}: {reason}",
        expected="access to the network, or the data set in a file",
        action=f"{terms}supply it as a .csv, .jsonl, .json or .txt file: -T file=PATH (file=... in Python), "
        f"or {spec.file or spec.name}.csv in the folder that {DATA_DIR} names",
    )
