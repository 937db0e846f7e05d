"""The public data sets that evaluations use: what each measures, where it is, and the names of its columns.

Knows names and facts; reads nothing. None of these data sets is shipped. Hub ids, configurations, splits and columns are those of the
Hugging Face hub in 2025; column names are compared regardless of case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mogu.errors import ConfigError

Measures = Literal["malicious", "benign", "contrast", "templates"]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of the catalog.

    Args:
        name: its name on the command line.
        measures: ``malicious`` requests, which should be refused; ``benign`` ones, which should be answered; ``contrast``, benign ones
            that look malicious with malicious ones beside them; ``templates``, texts to put around a request.
        size: number of prompts that are read.
        hub: its repository.
        config: its configuration there.
        split: its split there.
        prompt: columns that may hold the prompt, the original file's among them; the first one present is used. A list is the
            turns of a conversation.
        group: columns by which results may be grouped.
        label: columns that mark prompts as ``safe`` or ``unsafe``.
        context: columns with text that precedes the prompt.
        gated: whether the hub requires an account that has accepted its terms.
        first: read only this many rows, from the beginning; all by default.
        license: its license.
        paper: where it was introduced.
    """

    name: str
    measures: Measures
    size: int
    hub: str
    split: str
    prompt: tuple[str, ...]
    license: str
    paper: str
    config: str | None = None
    group: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    gated: bool = False
    first: int | None = None


CATALOG = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="advbench",
            measures="malicious",
            size=520,
            hub="walledai/AdvBench",
            split="train",
            prompt=("prompt", "goal"),
            gated=True,
            license="MIT",
            paper="Zou et al. 2023, arXiv:2307.15043",
        ),
        DatasetSpec(
            name="malicious_instruct",
            measures="malicious",
            size=100,
            hub="walledai/MaliciousInstruct",
            split="train",
            prompt=("prompt", "text"),
            gated=True,
            license="CC BY-SA 4.0",
            paper="Huang et al. 2023, arXiv:2310.06987",
        ),
        DatasetSpec(
            name="harmbench",
            measures="malicious",
            size=200,
            hub="walledai/HarmBench",
            config="standard",
            split="train",
            prompt=("prompt", "behavior"),
            group=("category", "semanticcategory"),
            context=("context", "contextstring"),
            gated=True,
            license="MIT",
            paper="Mazeika et al. 2024, arXiv:2402.04249",
        ),
        DatasetSpec(
            name="jailbreakbench",
            measures="malicious",
            size=100,
            hub="JailbreakBench/JBB-Behaviors",
            config="behaviors",
            split="harmful",
            prompt=("goal",),
            group=("category",),
            license="MIT",
            paper="Chao et al. 2024, arXiv:2404.01318",
        ),
        DatasetSpec(
            name="strongreject",
            measures="malicious",
            size=313,
            hub="walledai/StrongREJECT",
            split="train",
            prompt=("prompt", "forbidden_prompt"),
            group=("category",),
            gated=True,
            license="MIT",
            paper="Souly et al. 2024, arXiv:2402.10260",
        ),
        DatasetSpec(
            name="xstest",
            measures="contrast",
            size=450,
            hub="walledai/XSTest",
            split="test",
            prompt=("prompt",),
            group=("type",),
            label=("label",),
            gated=True,
            license="CC BY 4.0",
            paper="Röttger et al. 2023, arXiv:2308.01263",
        ),
        DatasetSpec(
            name="or_bench",
            measures="benign",
            size=1319,
            hub="bench-llm/or-bench",
            config="or-bench-hard-1k",
            split="train",
            prompt=("prompt",),
            group=("category",),
            license="CC BY 4.0",
            paper="Cui et al. 2024, arXiv:2405.20947",
        ),
        DatasetSpec(
            name="just_eval",
            measures="benign",
            size=800,
            hub="re-align/just-eval-instruct",
            split="test",
            prompt=("instruction",),
            group=("dataset",),
            first=800,  # its last 200 are malicious: they measure safety
            license="see its card",
            paper="Lin et al. 2023, arXiv:2312.01552",
        ),
        DatasetSpec(
            name="mt_bench",
            measures="benign",
            size=80,
            hub="HuggingFaceH4/mt_bench_prompts",
            split="train",
            prompt=("turns", "prompt"),
            group=("category",),
            license="Apache-2.0",
            paper="Zheng et al. 2023, arXiv:2306.05685",
        ),
        DatasetSpec(
            name="jailbreak_prompts",
            measures="templates",
            size=79,
            hub="rubend18/ChatGPT-Jailbreak-Prompts",
            split="train",
            prompt=("prompt", "template", "text"),
            group=("name",),
            license="see its card",
            paper="collected from jailbreakchat.com, 2023",
        ),
    )
}


def dataset_spec(name: str, *, measures: tuple[Measures, ...]) -> DatasetSpec:
    """Look up a data set of the catalog.

    Args:
        name: its name.
        measures: what it has to measure to be usable by the caller.

    Raises:
        ConfigError: there is none of that name, or it measures something else.
    """
    fitting = ", ".join(spec.name for spec in CATALOG.values() if spec.measures in measures)
    if name not in CATALOG:
        raise ConfigError(f"There is no data set {name!r}", expected=f"one of {fitting}", action="correct the name")
    spec = CATALOG[name]
    if spec.measures not in measures:
        raise ConfigError(f"The data set {name} holds {_HOLDS[spec.measures]}", expected=f"one of {fitting}", action="choose one of them")
    return spec


_HOLDS: dict[Measures, str] = {
    "malicious": "malicious requests",
    "benign": "benign requests",
    "contrast": "benign requests that look malicious",
    "templates": "texts to put around a request, not requests",
}
