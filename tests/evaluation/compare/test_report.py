"""The report in a real browser: it renders, asks nothing of any server, and reads well on a phone and on a desk, light and dark.

The browser's tests need Chromium and its driver (Debian: chromium and chromium-driver) and are skipped where they are missing.
"""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mogu.evaluation.compare.cells import Row
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.costs import SystemCost
from mogu.evaluation.compare.detection import detection, reliability, roc_curves
from mogu.evaluation.compare.lineup import Lineup, Variant
from mogu.evaluation.compare.metrics import Metric, Replies, cost_metrics, frontier, rates, routing_weights, wrapper_rates
from mogu.evaluation.compare.report import page
from mogu.evaluation.compare.results import Results, count_prompts, provenance, samples
from mogu.evaluation.intervals import exact
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt
from mogu.pages.formats import percent, points, size
from mogu.pages.svg import Box, Panel

HOSTILE = '<script>window.hacked = 1</script><img src="https://example.org/x.png" onerror="window.hacked = 1">'


def lineup() -> Lineup:
    command = f"mogu compare '{HOSTILE}'"
    return Lineup(Comparison(("lab",), Path("report"), ("lab",), seeds=2, shifts=(-2.0, -1.0, 1.0, 2.0), command=command))


def made_up() -> Results:
    """A comparison of all defenses and the lab's models in which nothing was measured: a stronger one refuses more of everything."""
    draw = random.Random(1)
    prompts = read_prompts(["lab"], limit=18)
    compared = lineup()
    strengths = {Variant(name): index / 10 for index, name in enumerate(compared.names())}
    strengths |= {Variant("mogu", shift): 0.5 + shift / 8 for shift in (-2.0, -1.0, 1.0, 2.0)}

    def reply(prompt: EvalPrompt, strength: float, index: int) -> Row:
        malicious = prompt.expected == "refused"
        refused = draw.random() < (strength + 0.2 if malicious else strength / 3)
        outcome = "refused" if refused else "complied" if malicious else "answered"
        alpha = [min(1.0, max(0.0, draw.gauss(0.8 if malicious else 0.2, 0.1))) for _ in range(4)]
        details = {"unwill": alpha, "glad": [1 - weight for weight in alpha], "score": sum(alpha) / 4}
        return Row(prompt.id, HOSTILE if index == 0 else "A reply.", outcome, 3, True, False, 3.0, 20.0, details)  # type: ignore[arg-type]

    replies: Replies = {
        variant: [[reply(prompt, strength, index) for index, prompt in enumerate(prompts)] for _ in range(2)]
        for variant, strength in strengths.items()
    }
    added = {"mogu": 13_062, "mogu_v2": 5_382, "mogu_gated": 9_000}
    costs = [
        SystemCost(name, [[0.1 + index / 50, 0.1 + index / 60] for _ in range(5)], [48.0] * 5, [60.0] * 5, 4_461_184, None, added.get(name))
        for index, name in enumerate(compared.names())
    ]
    models = compared.model_names()
    metrics = [
        *rates(prompts, replies, models),
        *wrapper_rates(prompts, replies),
        *cost_metrics(costs, models),
        *routing_weights(prompts, replies[Variant("mogu")], [0, 1, 2, 3], "mogu"),
    ]
    metrics += detection(prompts, replies)
    roc = roc_curves(prompts, replies[Variant("mogu")])
    metrics.append(Metric("tendency", "score", exact(-0.731, 440), "mogu", category="all_malicious"))
    return Results(
        made=provenance(compared, "cpu", [0.0]),
        data=count_prompts(prompts),
        numbers=metrics,
        frontier=frontier(metrics),
        roc=roc,
        reliability=reliability(prompts, replies),
        samples=samples(prompts, replies),
    )


@pytest.fixture(scope="module")
def html() -> str:
    return page(made_up().as_json())


class Links(HTMLParser):
    """Collects whatever a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (name, value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data") or name.startswith("on")
        ]
        if tag in ("script", "iframe", "object", "embed", "link", "img", "form"):
            self.found.append(("tag", tag))


def test_the_page_fetches_and_runs_nothing(html: str) -> None:
    links = Links()
    links.feed(html)
    assert links.found == [("href", "data:,"), ("tag", "link")]  # an empty icon, so that no browser looks for one
    assert "@import" not in html
    assert "url(" not in html


def test_texts_are_escaped_and_the_page_is_small(html: str) -> None:
    assert "&lt;script&gt;window.hacked" in html
    assert "<script" not in html
    assert len(html.encode()) < 300_000


def test_every_defense_is_named_in_plots_and_tables(html: str) -> None:
    panels = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for name, system in lineup().systems.items():
        assert sum(f">{system.label}</text>" in panel for panel in panels) == 2, name
    for section in ("frontier", "results", "models", "cost", "wrappers", "routing", "detector", "samples", "made"):
        assert f'<section id="{section}">' in html


def test_no_score_is_left_out_of_the_reliability_plot(html: str) -> None:
    legend = html[html.index("ten bins of the score") :].partition("</ul>")[0]
    assert re.findall(r"</svg><span>(.*?)</span>", legend) == [system.label for system in lineup().systems.values()]


def test_models_stand_side_by_side_with_their_parameters_and_tendency_with_its_correlations(html: str) -> None:
    models = html[html.index('<section id="models">') :].partition("</section>")[0]
    assert "Differences from MoGU," in models
    assert "13,062" in models
    assert "MoGU V2" in models
    assert "5,382" in models
    assert "−0.73" in html[html.index('<section id="tendency">') :].partition("</section>")[0]


def test_a_comparison_without_mogu_or_benign_prompts_has_a_page_as_well() -> None:
    whole = made_up().as_json()
    whole["numbers"] = [row for row in whole["numbers"] if row["defense"] in ("none", "icd") and "benign" not in row["category"]]
    whole |= {"roc": {}, "reliability": {}, "made": {**whole["made"], "defenses": ["none", "icd"], "models": [], "model_dials": []}}
    whole["numbers"] = [row for row in whole["numbers"] if row["category"] != "borderline"]
    shown = page(whole)
    assert '<section id="frontier">' not in shown
    assert '<section id="cost">' in shown


def test_labels_do_not_lie_on_one_another() -> None:
    panel = Panel("crowd", "x", "y")
    for place in range(9):  # all but one on one spot
        panel.dot(0.8 + 0.002 * place, 0.97, "other", "")
    for place in range(9):
        panel.label(0.8 + 0.002 * place, 0.97, f"Defense number {place}", "")
    placed = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label', panel.svg())]
    half = len("Defense number 0") * 13 * 0.56 / 2
    boxes = [Box(x - half, y - 12, x + half, y + 3) for x, y in placed]
    assert len(boxes) == 9
    assert not any(one.meets(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert all(box.left >= 0 and box.right <= panel.width and box.top >= 0 for box in boxes)


@pytest.mark.parametrize(("value", "words"), [(0.0, "0 %"), (1.0, "100 %"), (0.125, "12.5 %"), (0.9996, "100.0 %"), (0.25, "25 %")])
def test_shares_are_written_so_that_nearly_all_is_not_all(value: float, words: str) -> None:
    assert percent(value) == words


def test_differences_carry_their_sign_and_bytes_their_unit() -> None:
    assert (points(0.0621), points(-0.5)) == ("+6.2", "−50.0")
    assert (size(4_461_184), size(12.6e9), size(800)) == ("4.46 MB", "12.60 GB", "800 B")


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_reads_well(browser: Any, address: str, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get_log("performance")
    browser.get(address)
    assert browser.get_log("browser") == []
    fetched = re.findall(
        r'"Network\.requestWillBeSent".*?"url":"([^"]+)"', "\n".join(str(one["message"]) for one in browser.get_log("performance"))
    )
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []
    seen = browser.execute_script(
        """
        const style = getComputedStyle(document.body);
        const wide = [...document.querySelectorAll("main *, header *, footer *")].filter(one =>
            one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll"));
        const words = [...document.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height);
        return {
            overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
            wide: wide.map(one => one.outerHTML.slice(0, 100)),
            hacked: window.hacked === 1,
            paper: style.backgroundColor, ink: style.color,
            plots: [...document.querySelectorAll("figure svg")].map(one => one.getBoundingClientRect().width),
            smallest: Math.min(...words),
        };
        """
    )
    assert seen["overflow"] <= 0
    assert seen["wide"] == []
    assert not seen["hacked"]
    assert len(seen["plots"]) == 6
    assert min(seen["plots"]) > 0.85 * min(width - 32, 450)
    assert seen["smallest"] >= 8  # pixels from the top of a letter to its foot
    assert _contrast(seen["paper"], seen["ink"]) > 12
    assert (_light(seen["paper"]) > 0.5) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colored_words_stand_out_from_the_paper(browser: Any, address: str, scheme: str) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(address)
    colored = ".chip, .quiet, .note, td small, .tag, tr.mogu > th"
    colors = browser.execute_script(f'return [...document.querySelectorAll("{colored}")].map(one => getComputedStyle(one).color)')
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert min(_contrast(paper, color) for color in set(colors)) >= 4.5  # WCAG 2.1, level AA


def _light(color: str) -> float:
    """Relative luminance of WCAG 2.1."""
    red, green, blue = (float(part) / 255 for part in re.findall(r"[\d.]+", color)[:3])
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_light(one), _light(other)))
    return (lighter + 0.05) / (darker + 0.05)
