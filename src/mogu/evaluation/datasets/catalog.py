"""The public data sets that evaluations use: what each measures, where it is, and the names of its columns.

Knows names and facts; reads nothing. None of these data sets is shipped. Hub ids, configurations, splits and columns are those of the
Hugging Face hub in 2025; column names are compared regardless of case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mogu.errors import ConfigError

Measures = Literal["malicious", "benign", "contrast", "jailbroken", "templates"]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of the catalog.

    Args:
        name: its name on the command line.
        measures: ``malicious`` requests, which should be refused; ``benign`` ones, which should be answered; ``contrast``, benign ones
            that look malicious, perhaps with malicious ones beside them; ``jailbroken``, malicious ones as an attack has rewritten them;
            ``templates``, texts to put around a request.
        size: number of prompts that are read; ``None`` where only the number of rows is published.
        hub: its repository on the Hugging Face hub, or the address of a file.
        config: its configuration there; of a JSON file the field that holds the rows.
        split: its split there.
        prompt: columns that may hold the prompt, the original file's among them; the first one present is used. A list is the
            turns of a conversation.
        group: columns by which results may be grouped.
        label: columns that mark prompts as ``safe`` or ``unsafe``, or as ``unharmful`` or ``harmful``.
        goal: columns with what a jailbroken prompt is after.
        context: columns with text that precedes the prompt.
        gated: whether the hub requires an account that has accepted its terms.
        part: columns that say which part of the data set a row belongs to, in the authors' own file.
        part_name: the part that is read, in lower case.
        whole: number of rows of the whole data set, where that is another number.
        sparse: whether rows without a prompt or a label are left out rather than refused: an attack that failed, a label in dispute.
        file: name of its file in a folder of data sets; by default its own.
        rows: which of these rows are read: from the first of these numbers, counted from 0, and before the second.
        license: its license.
        paper: where it was introduced.
    """

    name: str
    measures: Measures
    size: int | None
    hub: str
    split: str
    prompt: tuple[str, ...]
    license: str
    paper: str
    config: str | None = None
    group: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    goal: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    gated: bool = False
    part: tuple[str, ...] = ()
    part_name: str = ""
    whole: int | None = None
    sparse: bool = False
    file: str | None = None
    rows: tuple[int, int | None] = (0, None)


# Three data sets are read in two parts each; the second part differs from the first in what is named below.
_OR_BENCH = DatasetSpec(
    name="or_bench",
    measures="contrast",
    size=1319,
    hub="bench-llm/or-bench",
    config="or-bench-hard-1k",
    split="train",
    prompt=("prompt",),
    group=("category",),
    license="CC BY 4.0",
    paper="Cui et al. 2024, arXiv:2405.20947",
)

_COCONOT = DatasetSpec(
    name="coconot",
    measures="malicious",
    size=None,
    hub="allenai/coconot",
    config="original",
    split="test",
    prompt=("prompt",),
    group=("subcategory",),
    part=("category",),  # the others are incomplete, unsupported or indeterminate requests, which nobody has to refuse
    part_name="requests with safety concerns",
    whole=1001,
    license="see its card",
    paper="Brahman et al. 2024, arXiv:2407.12043",
)

_JUST_EVAL = DatasetSpec(
    name="just_eval",
    measures="benign",
    size=800,
    hub="re-align/just-eval-instruct",
    split="test",
    prompt=("instruction",),
    group=("dataset",),
    rows=(0, 800),  # its last 200 are malicious
    whole=1000,
    license="see its card",
    paper="Lin et al. 2023, arXiv:2312.01552",
)

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
            part=("functionalcategory",),  # the authors' file holds copyright and contextual behaviors as well
            part_name="standard",
            whole=400,
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
        _OR_BENCH,
        replace(_OR_BENCH, name="or_bench_80k", size=80359, config="or-bench-80k"),
        _COCONOT,
        replace(_COCONOT, name="coconot_contrast", measures="contrast", config="contrast", whole=379),
        DatasetSpec(
            name="simple_safety_tests",
            measures="malicious",
            size=100,
            hub="Bertievidgen/SimpleSafetyTests",
            split="test",
            prompt=("prompt",),
            group=("harm_area",),
            license="see its card",
            paper="Vidgen et al. 2023, arXiv:2311.08370",
        ),
        DatasetSpec(
            name="wildguardtest",
            measures="contrast",
            size=None,
            hub="allenai/wildguardmix",
            config="wildguardtest",
            split="test",
            prompt=("prompt",),
            group=("subcategory",),
            label=("prompt_harm_label",),
            whole=1725,
            sparse=True,
            gated=True,
            license="ODC-BY",
            paper="Han et al. 2024, arXiv:2406.18495",
        ),
        *(
            DatasetSpec(
                name=f"jailbreakbench_{attack.lower()}_{model.partition('-')[0]}",
                measures="jailbroken",
                size=None,
                hub=f"https://raw.githubusercontent.com/JailbreakBench/artifacts/main/attack-artifacts/{attack}/{box}/{model}.json",
                config="jailbreaks",
                split="train",
                prompt=("prompt",),
                goal=("goal",),
                group=("category",),
                whole=100,
                sparse=True,
                license="MIT",
                paper="Chao et al. 2024, arXiv:2404.01318",
            )
            for attack, box, model in (
                ("GCG", "white_box", "vicuna-13b-v1.5"),
                ("GCG", "white_box", "llama-2-7b-chat-hf"),
                ("PAIR", "black_box", "vicuna-13b-v1.5"),
                ("PAIR", "black_box", "llama-2-7b-chat-hf"),
            )
        ),
        _JUST_EVAL,
        replace(
            _JUST_EVAL,
            name="just_eval_malicious",
            measures="malicious",
            size=200,
            rows=(800, None),  # "Malicious" in the paper of MoGU
            file="just_eval",
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
        DatasetSpec(
            name="gptfuzz_templates",
            measures="templates",
            size=77,
            hub="https://raw.githubusercontent.com/sherdencooper/GPTFuzz/master/datasets/prompts/GPTFuzzer.csv",
            split="train",
            prompt=("text",),
            license="MIT",
            paper="Yu et al. 2023, arXiv:2309.10253",
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
    "jailbroken": "malicious requests as an attack has rewritten them",
    "templates": "texts to put around a request, not requests",
}
