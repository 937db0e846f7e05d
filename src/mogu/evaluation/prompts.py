"""What defenses are asked, from whichever source, and what a reply did: one form for the lab, record files and lists.

Knows prompts and the two judges of replies, the lab's rules and the refusal classifier; knows nothing of models or defenses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mogu import lab
from mogu.data import WRAPPERS, Label, PromptTemplate, Record, read_instructions, read_records, wrapped_id
from mogu.errors import ConfigError, DataError
from mogu.evaluation.datasets import CATALOG, EvaluationPrompt, dataset_spec, read_prompts, read_templates
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS
from mogu.evaluation.tendency_jailbreak import tendency_wrapper
from mogu.lab import Category, LabPrompt
from mogu.lab.wrappers import TEST
from mogu.refusals import is_refusal

Outcome = Literal["answered", "refused", "complied", "other"]

MALICIOUS: tuple[Category, ...] = ("malicious", "malicious_wrapped")
BENIGN: tuple[Category, ...] = ("benign", "benign_wrapped", "borderline")

LAB = "lab"


@dataclass(frozen=True)
class Asked:
    """One prompt.

    Args:
        id: unique within its data set.
        dataset: name of the data set.
        category: what kind of prompt it is.
        conversation: messages, the user's turn last.
        request: what that turn asks for, without the wrapper around it: what a reply is judged against.
        wrapper: the jailbreak wrapper that it stands in, ``None`` for a plain prompt.
        lab: the lab's own prompt, whose rules judge the reply; ``None`` outside the lab.
    """

    id: str
    dataset: str
    category: Category
    conversation: tuple[dict[str, str], ...]
    request: str
    wrapper: str | None = None
    lab: LabPrompt | None = None

    @property
    def wanted(self) -> Outcome:
        """The right outcome."""
        return "refused" if self.category in MALICIOUS else "answered"

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Asked:
        """What ``dataclasses.asdict`` made plain."""
        prompt = fields["lab"]
        return cls(**{**fields, "lab": LabPrompt(**prompt) if prompt is not None else None})

    def outcome(self, reply: str) -> Outcome:
        """What a reply did: in the lab by the rules of its world, elsewhere by whether it refuses the plain request."""
        if self.lab is not None:
            return lab.judge(self.lab, reply)
        if is_refusal(self.request, reply):
            return "refused"
        return "complied" if self.category in MALICIOUS else "answered"


def read_asked(sources: Sequence[str], *, limit: int | None = None, jailbreaks: str | None = None) -> list[Asked]:
    """Prompts of several sources.

    Args:
        sources: each ``"lab"`` (its test prompts); a data set of :data:`mogu.evaluation.datasets.CATALOG`, by ``"NAME"`` or
            ``"NAME=FILE"``; a file of records, as ``mogu data build`` writes it; or ``"benign=FILE"`` or ``"malicious=FILE"``, a
            list of instructions.
        limit: so many prompts of each category of each source, the first ones.
        jailbreaks: ask each plain prompt in a jailbreak as well, jailbreaks taking turns: ``"own"`` are those of
            :mod:`mogu.evaluation.jailbreaks`, ``"published"`` the catalog's, ``"tendency=FILE"`` the one of
            :mod:`mogu.evaluation.tendency_jailbreak`, anything else is a file of templates. Not for the lab, which has its own.

    Raises:
        MoguError: a source cannot be used, or two have the same name.
    """
    names = [_name(source) for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"Two data sets are called {twice[0]}", expected="different names", action="rename a file, or name it once")
    templates = _templates(jailbreaks) if jailbreaks is not None else []
    asked = []
    for source, name in zip(sources, names, strict=True):
        plain = _first(_read(source, name), limit)
        asked += plain + _jailbroken(plain, templates)
    return asked


def _templates(jailbreaks: str) -> list[PromptTemplate]:
    if (around := tendency_wrapper(jailbreaks)) is not None:
        return [around]
    if jailbreaks == "own":
        return list(EVALUATION_WRAPPERS)
    file = None if jailbreaks == "published" else Path(jailbreaks).expanduser()
    return [PromptTemplate(name, "adversarial", text) for name, text in read_templates(file).items()]


def _jailbroken(plain: Sequence[Asked], templates: Sequence[PromptTemplate]) -> list[Asked]:
    """Malicious and benign prompts alike, or a jailbreak by itself would tell what is asked."""
    dressed: dict[Category, Category] = {"malicious": "malicious_wrapped", "benign": "benign_wrapped"}
    made = []
    for number, one in enumerate(one for one in plain if templates and one.category in dressed and one.lab is None):
        template = templates[number % len(templates)]
        last = {"role": "user", "content": template.apply(one.conversation[-1]["content"])}
        id, conversation = wrapped_id(one.id, template), (*one.conversation[:-1], last)
        made.append(Asked(id, one.dataset, dressed[one.category], conversation, one.request, template.name))
    return made


def of_records(records: Iterable[Record], dataset: str) -> list[Asked]:
    """Records as prompts; one that ``mogu data build`` has put into a wrapper is a wrapped one, and is taken out of it to be judged."""
    templates = {template.name: template for template in WRAPPERS}
    made = []
    for record in records:
        if record.uses_tools:
            raise DataError(
                f"The record {record.id!r} uses tools, which the defenses that are compared do not know",
                expected="records of plain text",
                action="leave it out; `mogu calibrate` and `mogu train` take such records",
            )
        text = record.request
        template = templates.get(record.wrapper) if record.wrapper is not None else None
        request = template.extract(text) if template is not None else None
        category = _category(record.label, record.wrapper is not None)
        made.append(Asked(record.id, dataset, category, tuple(record.conversation), request or text, record.wrapper))
    return made


def _category(label: Label, wrapped: bool) -> Category:
    if label == "malicious":
        return "malicious_wrapped" if wrapped else "malicious"
    return "benign_wrapped" if wrapped else "benign"


def _read(source: str, name: str) -> list[Asked]:
    if source == LAB:
        return [_of_lab(one) for one in lab.prompts("test")]
    kind, _, named = source.partition("=")
    file = Path(named).expanduser() if named else None
    if kind in ("benign", "malicious") and file is not None:
        label: Label = "benign" if kind == "benign" else "malicious"
        return [_plain(f"{label}-{one.number:04d}", name, label, one.text) for one in read_instructions(file)]
    if kind in CATALOG:
        return [_of_catalog(one) for one in read_prompts(dataset_spec(kind, measures=("malicious", "benign", "contrast")), file)]
    path = Path(source).expanduser()
    if path.suffix == ".jsonl" and path.is_file():
        return of_records(read_records(path), name)
    raise ConfigError(
        f"The data {source!r} is no data set that mogu knows, and no file of records",
        expected=f"lab, one of {', '.join(CATALOG)}, a .jsonl file of records, benign=FILE or malicious=FILE",
        action="correct the name or the path; a list of instructions needs its label: benign=FILE or malicious=FILE",
    )


def _of_lab(prompt: LabPrompt) -> Asked:
    template = next((template for template in TEST if template.name == prompt.wrapper), None)
    request = (template.extract(prompt.instruction) if template is not None else None) or prompt.instruction
    turn = {"role": "user", "content": prompt.instruction}
    return Asked(prompt.id, LAB, prompt.category, (turn,), request, prompt.wrapper, prompt)


def _plain(id: str, dataset: str, category: Category, text: str) -> Asked:
    return Asked(id, dataset, category, ({"role": "user", "content": text},), text)


def _of_catalog(prompt: EvaluationPrompt) -> Asked:
    """Of several turns the first: what comes later answers to what was said before."""
    looks_malicious = CATALOG[prompt.dataset].measures == "contrast"
    category: Category = "malicious" if prompt.kind == "malicious" else "borderline" if looks_malicious else "benign"
    return _plain(prompt.id, prompt.dataset, category, prompt.turns[0])


def _name(source: str) -> str:
    kind, separator, file = source.partition("=")
    if separator and kind in CATALOG:
        return kind
    return Path(file if separator and kind in ("benign", "malicious") else source).stem


def _first(asked: list[Asked], limit: int | None) -> list[Asked]:
    if limit is None:
        return asked
    counts: dict[str, int] = {}
    kept = []
    for one in asked:
        counts[one.category] = counts.get(one.category, 0) + 1
        if counts[one.category] <= limit:
            kept.append(one)
    return kept
