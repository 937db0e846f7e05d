"""The model card of a saved model.

Knows the config and what measurements it is handed; measures nothing itself.
"""

from __future__ import annotations

import re

from mogu.hub.quantization import in_words
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
    metadata = ["---", "library_name: mogu", "tags:", "- mogu", "- safety", "- lora"]
    if config.base_model and not config.base_model.startswith(("/", ".", "~")):
        metadata.append(f"base_model: {config.base_model}")
    what, settings, parts = _routed(config) if config.gate is None else _gated(config)
    bits = config.base_quantization
    loaded = f', quantization="{bits}"' if bits is not None else ""
    quantized = [f"- trained on the base model with linear layers in {in_words(bits)}, by bitsandbytes"] if bits is not None else []
    return "\n".join(
        [
            *metadata,
            "---",
            "",
            "# A MoGU model",
            "",
            *what,
            "",
            "```python",
            "from mogu import MoguModel",
            "",
            f'model = MoguModel.from_pretrained("this folder or repository"{loaded})',
            "```",
            "",
            "## Settings",
            "",
            *settings,
            *quantized,
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
            *parts,
            "Routing lowers the share of malicious requests that are answered; it does not bring it to nothing. What was not",
            "measured above, other languages and other attacks among it, is not known.",
            "",
        ]
    )


def _layers(config: MoguConfig) -> str:
    return "every layer" if config.layers is None else f"the layers {config.layers}"


def _routed(config: MoguConfig) -> tuple[list[str], list[str], list[str]]:
    """What a model with routers is, its settings, and what to know of its parts."""
    base = config.base_model or "a base model that was given as an object"
    backbone = []
    if config.backbone is not None:
        which = "all linear layers" if config.backbone.modules is None else ", ".join(f"`{name}`" for name in config.backbone.modules)
        backbone = [f"- LoRA rank {config.backbone.rank}, alpha {config.backbone.lora_alpha:g}, on {which} of the same decoder layers (V2)"]
    opening = "every token" if config.routed_tokens == "all" else f"the first {config.routed_tokens} tokens"
    again = f", and again behind `{config.answer_marker}`" if config.answer_marker else ""
    return (
        [
            f"Two LoRA responders and a router for `{base}`, after MoGU (NeurIPS 2024): they decide how {opening} of an answer",
            "come out, so that malicious requests are refused and others answered; then the plain base model goes on.",
        ],
        [
            f"- LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on the attention output projection of {_layers(config)}",
            *backbone,
            f"- routing for {opening} of an answer{again}, handoff `{config.handoff}`, dial {config.dial:g}",
        ],
        ["The responders `glad` and `unwill` are extremes on purpose, and parts: neither is meant to be used alone."],
    )


def _gated(config: MoguConfig) -> tuple[list[str], list[str], list[str]]:
    """What a model with a gate is, its settings, and what to know of its parts."""
    base, gate, careful = config.base_model or "a base model that was given as an object", config.gate, config.careful
    assert gate is not None
    settings = [
        f"- `unwill`: LoRA rank {config.rank}, alpha {config.lora_alpha:g}, on the attention output projection of {_layers(config)}",
        f"- the gate: `unwill` answers from a probability of {gate.refuse:.3f} on",
    ]
    if careful is not None:
        settings.append(
            f"- a careful responder, LoRA rank {careful.rank}, alpha {careful.lora_alpha:g}: answers from {gate.careful:.3f} to there"
        )
    listens = "nobody listens to answers" if gate.listen is None else f"answers are listened to, and taken back from {gate.listen:.3f} on"
    tokens = "every token" if config.routed_tokens == "all" else f"the first {config.routed_tokens} tokens"
    return (
        [
            f"A gate for `{base}`, after MoGU (NeurIPS 2024): it hears how malicious a request is. What it flags, the LoRA responder",
            "`unwill` refuses; all else the base model answers as it is.",
        ],
        [*settings, f"- {listens}", f"- routing for {tokens} of an answer, dial {config.dial:g}"],
        ["The responder `unwill` is an extreme on purpose, and a part: it refuses everything, and is not meant to be used alone."],
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
