"""What notebooks show: well-formed HTML that runs nothing, with the numbers of the model and of the explanation."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from mogu.modeling.explanation import Explanation
from mogu.modeling.notebook import table
from tests.gated_models import gated_config


class Page(HTMLParser):
    """Opens and closes tags, and keeps the texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("kind", ["gated", "v1"])
def test_a_model_is_a_few_rows(make_gated: Callable[..., Any], make_pair: Callable[..., Any], kind: str) -> None:
    model = make_gated("llama", gated_config())[0] if kind == "gated" else make_pair("llama")[0]
    model.mogu_config.base_model = "<b>someone</b>/base"
    texts = Page(model._repr_html_()).texts
    assert "<b>someone</b>/base" in texts
    assert f"{model.added_parameters():,}" in texts
    assert any("0 to 2" in text for text in texts)
    assert ("unwill answers from a score of 0.7 on" in texts) == (kind == "gated")


def test_an_explanation_shows_its_tokens_and_numbers() -> None:
    values = ((2.0, -1.0, 0.5), (1.0, 0.0, 0.25))
    explanation = Explanation("gate", ("rob", "<i>", "<end>"), (True, True, False), (3, 7), values, 0.9, 0.0, 0.5, -0.5)
    texts = "".join(Page(explanation._repr_html_()).texts)
    assert "rob<i> end of prompt " in texts
    assert "logit 2.25 = tokens +2.75, constant -0.50" in texts
    for number in ("+3.00", "+2.00", "-1.00", "+0.75"):
        assert number in texts


def test_tables_escape_what_they_show() -> None:
    assert "<script>" not in table(("<script>",), [("<script>", "&")])
