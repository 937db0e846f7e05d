"""Read prompts to evaluate with: from data sets of the catalog, files of records, lists of instructions and registered sources.

Knows how each source names what it holds; knows nothing of replies, models or defenses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mogu.data import KINDS, WRAPPERS, PromptTemplate, Record, read_instructions, read_records, wrapped_id
from mogu.data.starter import STARTER, candidates
from mogu.errors import ConfigError, DataError
from mogu.evaluation.datasets import CATALOG, dataset_spec, read_dataset, read_templates
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS
from mogu.evaluation.prompts import BY_REFUSAL, Category, EvalPrompt
from mogu.evaluation.sources import PROMPT_SOURCES
from mogu.evaluation.tendency_jailbreak import tendency_wrapper

_JAILBROKEN = "jailbroken"
_WRAPPED_CATEGORY: dict[Category, Category] = {"malicious": "malicious_wrapped", "benign": "benign_wrapped"}


def read_prompts(sources: Sequence[str], *, limit: int | None = None, jailbreaks: str | None = None) -> list[EvalPrompt]:
    """Read the prompts of several sources.

    Args:
        sources: each the name of a registered source, such as ``"starter"`` or ``"lab"``; a data set of
            :data:`mogu.evaluation.datasets.CATALOG`, by ``"NAME"`` or ``"NAME=FILE"``; a file of records, as ``mogu data build``
            writes it; ``"benign=FILE"``, ``"borderline=FILE"`` or ``"malicious=FILE"``, a list of instructions; or ``"jailbroken=FILE"``,
            malicious requests as an attack has rewritten them (``prompt``), each with what it is after (``goal``).
        limit: take at most this many prompts of each category of each source, the first ones.
        jailbreaks: ask each plain prompt in a jailbreak as well, jailbreaks taking turns: ``"own"`` are those of
            :mod:`mogu.evaluation.jailbreaks`, ``"published"`` the catalog's ``jailbreak_prompts``, a name of the catalog (with ``=FILE``
            or without) its templates, ``"tendency=FILE"`` and its variants those of
            :mod:`mogu.evaluation.tendency_jailbreak`, and anything else is a file of templates. Registered sources with a judge of
            their own bring their own wrappers and are left as they are.

    Raises:
        MoguError: a source cannot be used, or two have the same name.
    """
    names = [_name(source) for source in sources]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(f"Two data sets are called {repeated[0]}", expected="different names", action="rename a file, or name it once")
    templates = templates_of(jailbreaks) if jailbreaks is not None else []
    prompts = []
    for source, name in zip(sources, names, strict=True):
        plain = _first(_read(source, name), limit)
        prompts += plain + _jailbroken(plain, templates)
    return prompts


def prompts_of_records(records: Iterable[Record], dataset: str) -> list[EvalPrompt]:
    """Make prompts of records.

    A record that ``mogu data build`` put into a wrapper is of a wrapped category, which a borderline one shares with other benign
    ones; it is taken out of the wrapper to be judged.

    Raises:
        DataError: a record uses tools.
    """
    templates = {template.name: template for template in WRAPPERS}
    prompts = []
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
        category: Category = record.kind if record.wrapper is None else _WRAPPED_CATEGORY[record.label]
        prompts.append(EvalPrompt(record.id, dataset, category, tuple(record.conversation), request or text, record.wrapper))
    return prompts


def starter_prompts() -> list[EvalPrompt]:
    """Make prompts of the starter set's test split, grouped by topic; its topics and these instructions are trained on nowhere.

    Topics take turns, so that the first prompts are about all of them.
    """
    return [
        EvalPrompt.plain(instruction.id, STARTER, kind, instruction.text, group=instruction.topic)
        for kind in KINDS
        for instruction in candidates("test")[kind]
    ]


PROMPT_SOURCES.register(STARTER, starter_prompts)


def _name(source: str) -> str:
    kind, separator, file = source.partition("=")
    if separator and kind in CATALOG:
        return kind
    return Path(file if separator and kind in (*KINDS, _JAILBROKEN) else source).stem


def _read(source: str, name: str) -> list[EvalPrompt]:
    if source in PROMPT_SOURCES:
        return PROMPT_SOURCES[source]()
    kind, _, file_name = source.partition("=")
    file = Path(file_name).expanduser() if file_name else None
    category = next((known for known in KINDS if known == kind), None)
    if category is not None and file is not None:
        return [EvalPrompt.plain(f"{category}-{listed.number:04d}", name, category, listed.text) for listed in read_instructions(file)]
    if kind == _JAILBROKEN and file is not None:
        return _attacks(file, name)
    if kind in CATALOG:
        return read_dataset(dataset_spec(kind, measures=("malicious", "benign", "contrast", "jailbroken")), file)
    path = Path(source).expanduser()
    if path.suffix == ".jsonl" and path.is_file():
        return prompts_of_records(read_records(path), name)
    raise ConfigError(
        f"The data {source!r} is no data set that mogu knows, and no file of records",
        expected=f"one of {', '.join([*PROMPT_SOURCES.names(), *CATALOG])}, a .jsonl file of records, or KIND=FILE",
        action="correct the name or the path; a list needs its kind: benign=FILE, borderline=FILE, malicious=FILE or jailbroken=FILE",
    )


def _attacks(file: Path, name: str) -> list[EvalPrompt]:
    """What an attack, called as its file is, made of malicious requests."""
    return [
        EvalPrompt(
            id=f"jailbroken-{prompt.number:04d}",
            dataset=name,
            category="malicious_wrapped",
            conversation=({"role": "user", "content": prompt.text},),
            request=goal.text,
            wrapper=name,
        )
        for prompt, goal in zip(read_instructions(file, "prompt"), read_instructions(file, "goal"), strict=True)
    ]


def _first(prompts: list[EvalPrompt], limit: int | None) -> list[EvalPrompt]:
    """The first ``limit`` prompts of each category, in their order."""
    if limit is None:
        return prompts
    counts: Counter[Category] = Counter()
    kept = []
    for prompt in prompts:
        counts[prompt.category] += 1
        if counts[prompt.category] <= limit:
            kept.append(prompt)
    return kept


def templates_of(jailbreaks: str) -> list[PromptTemplate]:
    """Read the templates that ``jailbreaks`` names, see :func:`read_prompts`.

    Raises:
        MoguError: they cannot be read.
    """
    if (tendency := tendency_wrapper(jailbreaks)) is not None:
        return [tendency]
    if jailbreaks == "own":
        return list(EVALUATION_WRAPPERS)
    name, _, file_name = jailbreaks.partition("=")
    if name in CATALOG:
        found = read_templates(Path(file_name).expanduser() if file_name else None, name)
    else:
        found = read_templates(None if jailbreaks == "published" else Path(jailbreaks).expanduser())
    return [PromptTemplate(called, "adversarial", text) for called, text in found.items()]


def _jailbroken(prompts: Sequence[EvalPrompt], templates: Sequence[PromptTemplate]) -> list[EvalPrompt]:
    """Wrap malicious and benign prompts alike: otherwise a jailbreak by itself would tell which kind a request is."""
    plain = [prompt for prompt in prompts if prompt.category in _WRAPPED_CATEGORY and prompt.judge == BY_REFUSAL] if templates else []
    wrapped = []
    for index, prompt in enumerate(plain):
        template = templates[index % len(templates)]
        last = {"role": "user", "content": template.apply(prompt.instruction)}
        wrapped.append(
            replace(
                prompt,
                id=wrapped_id(prompt.id, template),
                category=_WRAPPED_CATEGORY[prompt.category],
                conversation=(*prompt.conversation[:-1], last),
                wrapper=template.name,
                follow_up=template.follow_up,
            )
        )
    return wrapped
