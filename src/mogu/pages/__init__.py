"""What every report page is made of: one style, plots, and the ways to write numbers. Knows nothing of what a page reports."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from mogu.pages import formats

FILTERS = {
    "percent": formats.percent,
    "interval": formats.interval,
    "points": formats.points,
    "seconds": formats.seconds,
    "size": formats.size,
}


def render(package: str, template: str, shown: dict[str, Any]) -> str:
    """Render a page that needs no server; every text is escaped, and ``style`` is the style of all pages.

    A template extends ``pages/base.html.jinja`` and may import the macros of ``pages/parts.html.jinja``.

    Args:
        package: the package that the template is in.
        template: its file name.
        shown: what the template names; ``made`` has at least ``versions``.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined

    parts = PrefixLoader({"pages": PackageLoader("mogu.pages", ".")})
    loader = ChoiceLoader([PackageLoader(package, "."), parts])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= FILTERS
    style = files("mogu.pages").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(shown | {"style": style})
