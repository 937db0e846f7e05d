"""What a fine-tuning run leaves to read: ``finetune_report.json``, the table of before and after, and the model card.

Knows what was measured; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from mogu.finetuning.evaluate import Score
from mogu.finetuning.inputs import TuningInputs
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.finetuning.selection import TuningTrial
from mogu.training.loss_curve import LossCurve

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
    trials: Sequence[TuningTrial],
    chosen: TuningTrial,
    mixed: dict[str, int],
    robust: dict[str, list[str]],
    repaired: dict[str, dict[str, float]],
    seconds: dict[str, float],
    rehardened: Sequence[TuningTrial],
    keep: str | None,
    after: Score,
    loss_curve: LossCurve,
) -> dict[str, Any]:
    """Put the report together.

    Args:
        recipe: the recipe of the run.
        inputs: the data.
        trained_parameters: number of parameters that were tuned.
        before: what the model did before.
        trials: the strategies that were tried, on dev.
        chosen: the trial that was kept.
        mixed: MoGU pairs mixed in, by strategy.
        robust: full names of the modules that learned with the whole rate, or alone at first, by strategy.
        repaired: similarities of the modules whose updates were repaired afterward, by strategy and full name.
        seconds: training time, by strategy.
        rehardened: for a hardened model, the ways of updating routers and responders that were tried, on dev.
        keep: the one of these that was kept.
        after: what the saved model does.
        loss_curve: the losses of all strategies.
    """
    chats = {part: len(of_part) for part, of_part in inputs.chats.items()}
    pairs = {part: Counter[str](record.kind for record in of_part) for part, of_part in inputs.pairs.items()}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "conversations": chats,
        "dropped_for_length": len(inputs.dropped),
        "learned_tokens": sum(len(example.learned) for example in inputs.encoded["train"]),
        "pairs": pairs,
        "pairs_mixed_in": mixed,
        "robust_modules": robust,
        "repaired_modules": repaired,
        "trained_parameters": trained_parameters,
        "before": {**before.rows(), "task accuracy": before.task.accuracy},
        "after": {**after.rows(), "task accuracy": after.task.accuracy},
        "measured_on": after.as_json(),
        "rule": RULE,
        "tried": [trial.row() for trial in trials],
        "chosen": chosen.row(),
        "kept_in_step": [trial.row() for trial in rehardened],
        "keep": keep,
        "seconds": {strategy: round(taken, 1) for strategy, taken in seconds.items()},
        **loss_curve.files(),
        "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "peft")},
    }


def table(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lay out before and after as rows: a name, then before, every strategy that was tried, and after; the first row holds the titles."""
    columns = [("before", report["before"]), *((trial["name"], trial) for trial in report["tried"]), ("after", report["after"])]
    if len(report["tried"]) == 1 and not report["kept_in_step"]:
        del columns[1]  # the one trial is what is saved
    names = [name for name in report["before"] if name != "task accuracy" and report["before"][name] is not None]
    return [("on the held-out data", *(name for name, _ in columns))] + [
        (name, *(_shown(name, values[name]) for _, values in columns)) for name in names
    ]


def card(recipe: FinetuneRecipe, report: dict[str, Any], base: str) -> str:
    """Write the README.md of a tuned model, in Markdown with the hub's metadata."""
    lines = table(report)
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    rows.insert(1, "|---" * len(lines[0]) + "|")
    chosen = report["chosen"]
    metadata = ["---", "library_name: " + ("peft" if recipe.tune.method == "lora" else "transformers"), "tags:", "- mogu"]
    if not base.startswith(("/", ".", "~")):
        metadata.append(f"base_model: {base}")
    pairs = report["pairs_mixed_in"].get(chosen["name"], 0)
    plot = ["", f"![Training loss]({report['loss_plot']})"] if report.get("loss_plot") else []
    return "\n".join(
        [
            *metadata,
            "---",
            "",
            f"# `{base}`, fine-tuned",
            "",
            f"Tuned on {report['conversations']['train']:,} conversations by `mogu finetune`, with safety `{recipe.safety.method}`"
            f" ({chosen['name']}; {pairs:,} MoGU pairs among the data).",
            "",
            "## Measured",
            "",
            *rows,
            "",
            f"Task: {report['conversations']['dev']:,} held-out conversations. Attack success: the share of malicious dev prompts that"
            " are not refused; a refusal is recognized by its opening phrases.",
            "The same data chose among what was tried, so that the figures flatter a little; all of them are in `finetune_report.json`.",
            *plot,
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
