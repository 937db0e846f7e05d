"""What a fine-tuning run leaves to read: ``finetune_report.json``, the table of before and after, and the model card.

Knows what was measured; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from mogu.finetuning.evaluate import Score
from mogu.finetuning.inputs import TuningInputs
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.finetuning.selection import Tried

RULE = (
    "task accuracy at most safety.max_task_loss below the best, benign refusals at most safety.max_benign_loss above those before tuning; "
    "then most malicious dev prompts refused, direct and jailbroken weighing the same"
)


def finetune_report(
    recipe: FinetuneRecipe,
    inputs: TuningInputs,
    *,
    trained_parameters: int,
    before: Score,
    tried: Sequence[Tried],
    chosen: Tried,
    mixed: dict[str, int],
    robust: dict[str, list[str]],
    seconds: dict[str, float],
    kept: Sequence[Tried],
    keep: str | None,
    after: Score,
) -> dict[str, Any]:
    """The report.

    Args:
        recipe: what it was made with.
        inputs: the data.
        trained_parameters: parameters that were tuned.
        before: what the model did before.
        tried: the ways that were tried, on dev.
        chosen: the one that was taken.
        mixed: MoGU pairs among the data, by way.
        robust: full names of the modules that learned with the whole rate, by way.
        seconds: training time, by way.
        kept: of a hardened model: ways of keeping routers and responders in step, on dev.
        keep: the one of them that was taken.
        after: what the saved model does.
    """
    chats = {part: len(some) for part, some in inputs.chats.items()}
    pairs = {part: Counter[str](record.label for record in some) for part, some in inputs.pairs.items()}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "conversations": chats,
        "dropped_for_length": len(inputs.dropped),
        "learned_tokens": sum(len(example.learned) for example in inputs.encoded["train"]),
        "pairs": pairs,
        "pairs_mixed_in": mixed,
        "robust_modules": robust,
        "trained_parameters": trained_parameters,
        "before": {**before.rows(), "task accuracy": before.task.accuracy},
        "after": {**after.rows(), "task accuracy": after.task.accuracy},
        "measured_on": {"task": asdict(after.task), "safety": None if after.safety is None else asdict(after.safety)},
        "rule": RULE,
        "tried": [one.row() for one in tried],
        "chosen": chosen.row(),
        "kept_in_step": [one.row() for one in kept],
        "keep": keep,
        "seconds": {way: round(taken, 1) for way, taken in seconds.items()},
        "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "peft")},
    }


def table(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Before and after, a row a line: its name, then before, every way that was tried, and after; the first row holds the titles."""
    columns = [("before", report["before"]), *((one["name"], one) for one in report["tried"]), ("after", report["after"])]
    if len(report["tried"]) == 1 and not report["kept_in_step"]:
        del columns[1]  # what was tried is what there is after
    names = [name for name in report["before"] if name != "task accuracy" and report["before"][name] is not None]
    return [("on the held-out data", *(name for name, _ in columns))] + [
        (name, *(_shown(name, values[name]) for _, values in columns)) for name in names
    ]


def card(recipe: FinetuneRecipe, report: dict[str, Any], base: str) -> str:
    """The README.md of a tuned model, in Markdown with the hub's metadata."""
    lines = table(report)
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    rows.insert(1, "|---" * len(lines[0]) + "|")
    way = report["chosen"]
    metadata = ["---", "library_name: " + ("peft" if recipe.tune.method == "lora" else "transformers"), "tags:", "- mogu"]
    if not base.startswith(("/", ".", "~")):
        metadata.append(f"base_model: {base}")
    pairs = report["pairs_mixed_in"].get(way["name"], 0)
    return "\n".join(
        [
            *metadata,
            "---",
            "",
            f"# `{base}`, fine-tuned",
            "",
            f"Tuned on {report['conversations']['train']:,} conversations by `mogu finetune`, with safety `{recipe.safety.method}`"
            f" ({way['name']}; {pairs:,} MoGU pairs among the data).",
            "",
            "## Measured",
            "",
            *rows,
            "",
            f"Task: {report['conversations']['dev']:,} held-out conversations. Attack success: the share of malicious dev prompts that"
            " are not refused; a refusal is recognized by its opening phrases.",
            "The same data chose among what was tried, so that the figures flatter a little; all of them are in `finetune_report.json`.",
            "",
            "## Limits",
            "",
            "What was not measured above, other languages and other attacks among it, is not known.",
            "",
        ]
    )


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if name == "task loss" else f"{value:.1%}"
