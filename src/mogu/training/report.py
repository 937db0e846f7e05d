"""What a training run leaves to read: ``training_report.json``, its page, the loss curve and the model card.

Knows what was measured; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mogu.files.atomic import atomic_folder
from mogu.files.json_files import read_json, write_json
from mogu.modeling.checkpoint import CONFIG_FILE, accept_files
from mogu.modeling.model import MoguModel
from mogu.modeling.model_card import plain_card
from mogu.training.dev_examples import dev_examples
from mogu.training.inputs import Inputs
from mogu.training.loss_curve import LossCurve
from mogu.training.recipe import Recipe
from mogu.training.report_page import PAGE_FILE, page
from mogu.training.selection import AnyTrial, DevMetrics

REPORT_FILE = "training_report.json"


def read_report(folder: Path) -> dict[str, Any] | None:
    """Read the report beside a saved model; ``None`` if there is none."""
    return read_json(folder / REPORT_FILE)


def save_with_report(
    model: MoguModel,
    recipe: Recipe,
    inputs: Inputs,
    base: DevMetrics,
    trials: Sequence[AnyTrial],
    chosen: AnyTrial,
    seconds: dict[str, float],
    loss_curve: LossCurve,
) -> None:
    """Save the model to the recipe's output, with a card, the loss curve, a report on how it was made and a page of it: all at once.

    Args:
        model: the model, with the chosen responders and routers.
        recipe: the recipe it was made with.
        inputs: the data.
        base: what the base model did on the dev records.
        trials: what was tried.
        chosen: the trial that was kept.
        seconds: training time of each part.
        loss_curve: the losses of all stages.
    """
    counts = {split: Counter[str](record.kind for record in records) for split, records in (("train", inputs.train), ("dev", inputs.dev))}
    report: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "records": counts,
        "added_parameters": model.added_parameters(),
        "base_on_dev": base.as_json(),
        "candidates": [trial.row() for trial in trials],
        "chosen": chosen.row(),
        "seconds": {part: round(taken, 1) for part, taken in seconds.items()},
        **loss_curve.files(),
        "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "peft")},
    }
    results = _results(base, chosen, len(trials), loss_plot=report["loss_plot"])
    card = plain_card(model.mogu_config, data=_data(counts), results=results)
    examples = dev_examples(
        model, inputs.tokenizer, inputs.dev, system_prompt=recipe.model.system_prompt, batch_size=recipe.choice.batch_size
    )
    with atomic_folder(recipe.run.output, marker=CONFIG_FILE) as folder:
        model.save_pretrained(folder, card=card)
        loss_curve.save(folder)
        write_json(folder / REPORT_FILE, report)
        text = page(report, loss_curve.rows, model=recipe.run.output.name, examples=examples)
        (folder / PAGE_FILE).write_text(text, encoding="utf-8")
        accept_files(folder)


def _data(counts: dict[str, Counter[str]]) -> str:
    parts = []
    for split, count in counts.items():
        borderline = f", {count['borderline']} borderline" if count["borderline"] else ""
        parts.append(f"{split}: {count['benign']} benign{borderline} and {count['malicious']} malicious records")
    return "; ".join(parts) + ". Affirmative answers to malicious instructions are openings only."


def _results(base: DevMetrics, chosen: AnyTrial, tried: int, *, loss_plot: str | None) -> str:
    routed = chosen.metrics
    rows = [
        ("malicious requests refused", base.malicious_refused, routed.malicious_refused, routed.malicious),
        ("benign requests answered", base.benign_answered, routed.benign_answered, routed.benign),
    ]
    if base.borderline_answered is not None and routed.borderline_answered is not None:
        rows.append(("borderline requests answered", base.borderline_answered, routed.borderline_answered, routed.borderline))
    lines = ["| on the dev records, greedy | base model | MoGU | prompts |", "|---|---|---|---|"]
    lines += [f"| {name} | {before:.1%} | {after:.1%} | {number} |" for name, before, after, number in rows]
    choice = f"chose among {tried} candidates" if tried > 1 else "set the threshold or the dial"
    note = (
        f"The dev records {choice}, so these figures flatter a little; a refusal is recognized by its\n"
        f"opening phrases. Made by `mogu train`; what was measured is in `{REPORT_FILE}`."
    )
    plot = ["", f"![Loss of each stage over its optimizer steps]({loss_plot})"] if loss_plot is not None else []
    return "\n".join([*lines, "", note, *plot])
