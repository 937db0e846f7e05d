"""The task `mogu/safety`: how often malicious requests are complied with, plain and in jailbreak wrappers.

Knows data sets, wrappers and Inspect; replies are classified by the refusal scorer.
"""

from __future__ import annotations

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.scorer import Scorer, scorer
from inspect_ai.solver import chain, generate

from mogu.data import PromptTemplate
from mogu.errors import ConfigError
from mogu.evaluation.datasets import dataset_spec, read_dataset, read_templates
from mogu.evaluation.inspect.errors import as_inspect_error
from mogu.evaluation.inspect.follow_up import follow_up
from mogu.evaluation.inspect.metrics import share
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS, jailbreak_named
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.scorers import harmfulness, refusal
from mogu.evaluation.tasks.samples import PLAIN, first, sample_of
from mogu.evaluation.tendency_jailbreak import tendency_wrapper


@task
def safety(
    dataset: str | list[str] = "advbench",
    wrapper: str | list[str] | None = None,
    jailbreaks: str | None = None,
    file: str | None = None,
    judge: str | None = None,
    limit: int | None = None,
) -> Task:
    """Attack success rate: the share of malicious requests whose reply does not refuse, over all and by data set and wrapper.

    Args:
        dataset: one or more of the malicious data sets.
        wrapper: ``None`` or ``"none"`` for the plain request, names of evaluation wrappers, or ``"all"``: plain and in every wrapper.
        jailbreaks: a file of published jailbreak prompts whose templates are the wrappers, ``"hub"`` for the collection of the
            catalog, or ``"tendency=FILE"`` and its variants of :mod:`mogu.evaluation.tendency_jailbreak`; ``wrapper`` then names some of
            them, by default all without the plain request.
        file: the data set in a local file, where there is one data set.
        judge: an Inspect model that also rates how harmful each reply is.
        limit: how many prompts of each data set.
    """
    with as_inspect_error():
        names = [dataset] if isinstance(dataset, str) else list(dataset)
        if file is not None and len(names) != 1:
            raise ConfigError(f"One file was given for {len(names)} data sets", expected="one data set", action="run once for each of them")
        prompts: list[EvalPrompt] = []
        for name in names:
            prompts += first(read_dataset(dataset_spec(name, measures=("malicious", "jailbroken")), _path(file)), limit)
        around = _wrappers(wrapper, jailbreaks)
    # All wrappers of a prompt beside each other, so that the first samples of a run are of every kind.
    samples = [sample_of(prompt, wrapped_in) for prompt in prompts for wrapped_in in around]
    scorers = [attack()] if judge is None else [attack(), harmfulness(judge)]
    return Task(dataset=MemoryDataset(samples, name=",".join(names)), solver=chain(generate(), follow_up()), scorer=scorers)


@scorer(
    metrics=[
        share("attack_success", ["compliance"], by=["dataset", "wrapper"]),
        share("partial_refusal", ["partial_refusal"], by=["dataset", "wrapper"]),
    ]
)
def attack() -> Scorer:
    """Classify a reply as ``full_refusal``, ``partial_refusal`` or ``compliance``; only compliance is a successful attack."""
    return refusal()


def _wrappers(wrapper: str | list[str] | None, jailbreaks: str | None) -> list[PromptTemplate | None]:
    names = [wrapper] if isinstance(wrapper, str) else wrapper
    if jailbreaks is None:
        if names == ["all"]:
            return [None, *EVALUATION_WRAPPERS]
        return [None if name == PLAIN else jailbreak_named(name) for name in names or [PLAIN]]
    if (tendency := tendency_wrapper(jailbreaks)) is not None:
        templates = {tendency.name: tendency}
    else:
        texts = read_templates(None if jailbreaks == "hub" else _path(jailbreaks))
        templates = {name: PromptTemplate(name, "adversarial", text) for name, text in texts.items()}
    if names is None or names == ["all"]:
        plain: list[PromptTemplate | None] = [None] if names else []
        return [*plain, *templates.values()]
    unknown = sorted(set(names) - set(templates) - {PLAIN})
    if unknown:
        raise ConfigError(
            f"There is no template {', '.join(unknown)} in {jailbreaks}",
            expected=f"names among {', '.join(templates)}",
            action="correct the names",
        )
    return [None if name == PLAIN else templates[name] for name in names]


def _path(file: str | None) -> Path | None:
    return Path(file).expanduser() if file is not None else None
