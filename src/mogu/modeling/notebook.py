"""What a notebook shows of a model, and of why it scored a prompt as it did: HTML without scripts, for light and dark pages.

Knows models and explanations; knows nothing of notebooks but that they show what ``_repr_html_`` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mogu.modeling.explanation import Explanation
    from mogu.modeling.model import MoguModel

_RAISES, _LOWERS = "217, 90, 40", "20, 140, 105"
_STRONGEST = 0.62  # so much color at most, that words stay readable on it


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows; all texts are escaped."""
    top = "".join(f'<th scope="col" style="text-align: left">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row" style="text-align: left">{escape(row[0])}</th>'
        + "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def model_html(model: MoguModel) -> str:
    """What a model is, in a few rows."""
    config = model.mogu_config
    layers = model.routed_layer_indices
    spans = f"{layers[0]} to {layers[-1]}" if layers == list(range(layers[0], layers[-1] + 1)) else ", ".join(map(str, layers))
    rows = [
        ("base model", config.base_model or "not named"),
        ("method", {"gated": "gated", "v1": "MoGU", "v2": "MoGU V2"}[config.method]),
        ("responders", f"{' and '.join(config.responders)}, rank {config.rank}, in the layers {spans}"),
    ]
    if config.gate is not None:
        rows.append(("gate", f"unwill answers from a score of {config.gate.refuse:.3g} on"))
    else:
        rows.append(("routed tokens", str(config.routed_tokens)))
    rows += [("dial", f"{config.dial:g}"), ("added parameters", f"{model.added_parameters():,}")]
    return f"<strong>{type(model).__name__}</strong>{table((), rows)}"


def explanation_html(explanation: Explanation) -> str:
    """The prompt with its tokens colored by what they added, in words what that comes to, and a table of it by layer."""
    gate = explanation.kind == "gate"
    most = max(map(abs, explanation.by_token)) or 1.0

    def number(value: float) -> str:
        return f"{value:+.2f}" if gate else f"{value:.3f}"

    def cell(token: str, value: float, user: bool) -> str:
        strength = value / most if gate else 2 * value - 1
        color = f"rgba({_RAISES if strength >= 0 else _LOWERS}, {_STRONGEST * min(1.0, abs(strength)):.2f})"
        text = escape(token) if user else "<em> end of prompt </em>"
        return f'<span title="{number(value)}" style="background: {color}">{text}</span>'

    tokens = "".join(map(cell, explanation.tokens, explanation.by_token, explanation.user))
    if gate:
        dial = f", dial {explanation.dial:+.2f}" if explanation.dial else ""
        told = f"logit {explanation.logit:.2f} = tokens {sum(explanation.by_token):+.2f}, constant {explanation.bias:+.2f}{dial}"
    else:
        told = f"the mean share α/(α+β) of the last token over {len(explanation.layers)} layers"
    head = ["token", "all layers" if gate else "mean share", *(f"layer {layer}" for layer in explanation.layers)]
    rows = [
        [repr(token) if user else "end of prompt", number(value), *map(number, column)]
        for token, user, value, column in zip(
            explanation.tokens, explanation.user, explanation.by_token, zip(*explanation.values, strict=True), strict=True
        )
    ]
    return (
        f'<p style="white-space: pre-wrap">{tokens}</p><p><strong>score {explanation.score:.3f}</strong>: {told}</p>'
        f'<details><summary>By token and layer</summary><div style="overflow-x: auto">{table(head, rows)}</div></details>'
    )
