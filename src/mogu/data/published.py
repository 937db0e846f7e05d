"""Read training data in the layout of the published MoGU release as records.

Knows the six files of that layout and how they belong together; knows nothing of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mogu.data.records import MAX_TEXT_CHARACTERS, Label, Record
from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_whole

_ANSWER_FILES: dict[Label, tuple[str, str]] = {
    "benign": ("safety_affirm.json", "safety_reject.json"),
    "malicious": ("unsafety_affirm.json", "unsafety_reject.json"),
}
_ROUTER_FILES = ("data_normal.json", "data_label.json")
_ROUTER_LABELS: tuple[Label, Label] = ("benign", "malicious")
_MAX_FILE_BYTES = 256 * 1_048_576


def read_published(folder: Path) -> list[Record]:
    """Read the records of a folder in the published layout, the benign ones first.

    The two answer files of a label belong together element by element. ``data_normal.json`` and ``data_label.json`` (0: benign,
    1: malicious) give the router each instruction's label and repeat one of its answers: they must agree with the other files, and add
    no records.

    Raises:
        DataError: a file is missing or broken, two files do not belong together, or the router's labels contradict the others.
    """
    names = [name for pair in _ANSWER_FILES.values() for name in pair] + list(_ROUTER_FILES)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(
            f"{folder} has no {', '.join(missing)}",
            expected=f"the six files {', '.join(names)}",
            action="give the folder that holds the published training data",
        )
    records: list[Record] = []
    for label, (affirm_name, reject_name) in _ANSWER_FILES.items():
        affirms, rejects = _read_answers(folder / affirm_name), _read_answers(folder / reject_name)
        if [instruction for instruction, _ in affirms] != [instruction for instruction, _ in rejects]:
            raise DataError(
                f"{affirm_name} and {reject_name} in {folder} do not hold the same {label} instructions",
                expected="the same instructions in the same order in both",
                action="take both files from the same release",
            )
        records.extend(
            Record(id=f"{label}-{number:04d}", label=label, instruction=instruction, affirm=affirm, reject=reject)
            for number, ((instruction, affirm), (_, reject)) in enumerate(zip(affirms, rejects, strict=True), 1)
        )
    _check_router_labels(folder, records)
    return records


def _check_router_labels(folder: Path, records: list[Record]) -> None:
    answers_name, labels_name = _ROUTER_FILES
    answers, labels = _read_answers(folder / answers_name), _read_list(folder / labels_name)
    if len(answers) != len(labels):
        raise DataError(
            f"{answers_name} in {folder} holds {len(answers)} records and {labels_name} {len(labels)} labels",
            expected="one label a record",
            action="take both files from the same release",
        )
    label_of = {record.instruction: record.label for record in records}
    for position, ((instruction, _), number) in enumerate(zip(answers, labels, strict=True), 1):
        if type(number) is not int or number not in (0, 1):
            raise DataError(
                f"{folder / labels_name}, element {position}, is {number!r}",
                expected="0 (benign) or 1 (malicious)",
                action="correct the label",
            )
        known = label_of.get(instruction, _ROUTER_LABELS[number])
        if known != _ROUTER_LABELS[number]:
            raise DataError(
                f"{folder / labels_name}, element {position}, says {_ROUTER_LABELS[number]} where the other files say {known}",
                expected="the same label in all files",
                action="correct the label, or take all files from the same release",
            )


def _read_answers(path: Path) -> list[tuple[str, str]]:
    answers = []
    for position, value in enumerate(_read_list(path), 1):
        texts = (value.get("instruction"), value.get("output")) if isinstance(value, dict) else (None, None)
        if not all(isinstance(text, str) and text.strip() and len(text) <= MAX_TEXT_CHARACTERS for text in texts):
            raise DataError(
                f"{path}, element {position}, is not an instruction with its output",
                expected=f'{{"instruction": …, "output": …}} with text in both, at most {MAX_TEXT_CHARACTERS:,} characters',
                action="correct or delete the element, also in the file that belongs to this one",
            )
        answers.append((str(texts[0]), str(texts[1])))
    return answers


def _read_list(path: Path) -> list[Any]:
    try:
        value = parse_json(read_whole(path, _MAX_FILE_BYTES))
    except ValueError as error:
        raise DataError(f"{path} {error}", expected="one JSON list", action="download or write the file again") from error
    if not isinstance(value, list) or not value:
        raise DataError(f"{path} holds no JSON list with elements", expected="one JSON list", action="download or write the file again")
    return value
