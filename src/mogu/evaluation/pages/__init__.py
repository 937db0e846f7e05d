"""What every report page is made of: one style, plots, and the ways to write numbers. Knows nothing of what a page reports."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from mogu.evaluation.pages import formats

FILTERS = {
    "percent": formats.percent,
    "interval": formats.interval,
    "points": formats.points,
    "seconds": formats.seconds,
    "size": formats.size,
}


def render(package: str, template: str, shown: dict[str, Any]) -> str:
    """Render a page that needs no server; every text is escaped, and ``style`` is the style of all pages.

    Args:
        package: the package that the template is in.
        template: its file name.
        shown: what the template names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= FILTERS
    style = files("mogu.evaluation.pages").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(shown | {"style": style})
