"""The model card of a saved model.

Knows the config and what measurements it is handed; measures nothing itself.
"""

from __future__ import annotations

import re

from mogu.modeling.config import MoguConfig

CALIBRATED = "## Calibrated"
_DIAL = re.compile(r"^(- routing for .*, dial )\S+$", re.MULTILINE)
_CALIBRATED = re.compile(rf"^{CALIBRATED}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LIMITS = re.compile(r"^## Limits$", re.MULTILINE)


def plain_card(config: MoguConfig, *, data: str = "", results: str = "") -> str:
    """The README.md of a saved model, in Markdown with the hub's metadata.

    Args:
        config: the model's settings.
        data: a paragraph on what it was trained on.
        results: measured safety and usability, as Markdown.
    """
    base = config.base_model or "a base model that was given as an object"
    metadata = ["---", "library_name: mogu", "tags:", "- mogu", "- safety", "- lora"]
    if config.base_model and not config.base_model.startswith(("/", ".", "~")):
        metadata.append(f"base_model: {config.base_model}")
    layers = "every layer" if config.layers is None else f"the layers {config.layers}"
    backbone = []
    if config.backbone is not None:
        which = "all linear layers" if config.backbone.modules is None else ", ".join(f"`{name}`" for name in config.backbone.modules)
        backbone = [f"- LoRA rank {config.backbone.rank}, alpha {config.backbone.lora_alpha:g}, on {which} of the same decoder layers (V2)"]
    opening = "every token" if config.routed_tokens == "all" else f"the first {config.routed_tokens} tokens"
    again = f", and again behind `{config.answer_marker}`" if config.answer_marker else ""
    return "\n".join(
        [
            *metadata,
            "---",
            "",
            "# A MoGU model",
            "",
            f"Two LoRA responders and a router for `{base}`, after MoGU (NeurIPS 2024): they decide how {opening} of an answer",
            "come out, so that malicious requests are refused and others answered; then the plain base model goes on.",
            "",
            "```python",
            "from mogu import MoguModel",
            "",
            'model = MoguModel.from_pretrained("this folder or repository")',
            "```",
            "",
            "## Settings",
            "",
            f"- LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on the attention output projection of {layers}",
            *backbone,
            f"- routing for {opening} of an answer{again}, handoff `{config.handoff}`, dial {config.dial:g}",
            "",
            "## Data",
            "",
            data or "Not recorded.",
            "",
            "## Measured",
            "",
            results or "Not measured yet.",
            "",
            "## Limits",
            "",
            "The responders `glad` and `unwill` are extremes on purpose, and parts: neither is meant to be used alone.",
            "Routing lowers the share of malicious requests that are answered; it does not bring it to nothing. What was not",
            "measured above, other languages and other attacks among it, is not known.",
            "",
        ]
    )


def recalibrated_card(card: str, dial: float, results: str) -> str:
    """A card after its model's dial was chosen anew: the settings say the new dial, a section what was measured at it, the rest is kept.

    Args:
        card: the card; a section of an earlier calibration gives way to the new one.
        dial: the new dial.
        results: what was measured at it, as Markdown.
    """
    card = _DIAL.sub(lambda line: f"{line[1]}{dial:g}", _CALIBRATED.sub("", card))
    limits = _LIMITS.search(card)
    before, after = (card[: limits.start()], card[limits.start() :]) if limits is not None else (card, "")
    return f"{before.rstrip()}\n\n{CALIBRATED}\n\n{results.strip()}\n" + (f"\n{after}" if after else "")
