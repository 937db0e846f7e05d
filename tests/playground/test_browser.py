"""The playground in a real browser, on SmolLM2 and the hardened model that ships: every feature, at a desk and on a phone, light and dark.

With the environment variable MOGU_SCREENSHOTS the pictures of the documentation are written into the folder that it names:

    MOGU_SCREENSHOTS=docs/images python -m pytest tests/playground/test_browser.py
"""

from __future__ import annotations

import csv
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("starlette", reason="the packages of mogu[playground] are not installed")

from mogu.errors import MoguError
from mogu.playground.jobs import Playground
from mogu.playground.presets import PRESETS
from mogu.playground.server import open_server
from mogu.playground.sides import Side, load_sides

MALICIOUS = next(preset.text for preset in PRESETS if preset.kind == "malicious")
BORDERLINE = next(preset.text for preset in PRESETS if preset.kind == "borderline")
PICTURES = {(400, "light"): "phone", (1600, "dark"): "dark"}
IDLE = "document.getElementById('stop').disabled"


@pytest.fixture(scope="module")
def sides() -> Iterator[list[Side]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield load_sides(["smollm2-safer"])
    except MoguError as error:
        pytest.skip(f"SmolLM2 cannot be had: {error.found}")
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def address(sides: list[Side], browser: Any) -> Iterator[str]:
    with served(sides, browser, places=2) as address:
        yield address


@contextmanager
def served(sides: list[Side], browser: Any, **settings: Any) -> Iterator[str]:
    server, listening, address = open_server(Playground(sides), port=0, **settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield address
    browser.get("about:blank")
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


class Page:
    """One tab with the playground."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self, width: int = 1400, height: int = 960, scheme: str = "light") -> None:
        self.resize(width, height)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.browser.get(self.address)
        self.js("sessionStorage.clear()")
        self.browser.refresh()
        self.wait("document.querySelector('.preset') || !document.getElementById('notice').hidden")

    def resize(self, width: int, height: int | None = None) -> None:
        """None is as high as the page."""
        settings = {"width": width, "height": height or 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
        for _ in range(2 if height is None else 0):  # a higher window makes a higher page, once
            settings["height"] = self.js("return document.documentElement.scrollHeight")
            self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"return Boolean({condition})"):
            assert time.monotonic() < end, (condition, self.js("return document.body.innerText"), self.browser.get_log("browser"))
            time.sleep(0.05)

    def set(self, name: str, value: float | str, event: str = "input") -> None:
        script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event(arguments[2]))"
        self.js(script, name, value, event)

    def click(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).click()", selector)

    def say(self, text: str, tokens: int = 24) -> None:
        self.set("length", tokens)
        prompt = self.browser.find_element("id", "prompt")
        prompt.send_keys(text)
        prompt.send_keys("\ue007")  # Enter

    def ask(self, text: str, tokens: int = 24) -> list[str]:
        self.say(text, tokens)
        self.wait(IDLE)
        return self.replies()

    def replies(self) -> list[str]:
        last = "[...c.querySelectorAll('.turn.assistant .text')].at(-1).textContent"
        return self.js(f"return [...document.querySelectorAll('.column')].map(c => {last})")

    def picture(self, name: str, of: str | None = None) -> None:
        folder = os.environ.get("MOGU_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            shot = self.browser.save_screenshot if of is None else self.browser.find_element("css selector", of).screenshot
            assert shot(str(Path(folder) / f"playground-{name}.png"))


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    browser.get_log("browser")
    browser.get_log("performance")
    page = Page(browser, address)
    yield page
    assert browser.get_log("browser") == []
    log = "\n".join(str(line["message"]) for line in browser.get_log("performance"))
    fetched = re.findall(r'"Network\.(?:requestWillBeSent|webSocketCreated)".*?"url":"([^"]+)"', log)
    assert fetched
    elsewhere = [url for url in fetched if not url.startswith((address, address.replace("http", "ws"), "blob:", "data:", "about:"))]
    assert elsewhere == []


def test_both_sides_answer_side_by_side_with_score_reasons_and_frontier(page: Page, sides: list[Side]) -> None:
    page.open(height=840)
    page.say(MALICIOUS, 45)
    page.wait("document.querySelectorAll('.token').length > 6")
    note = page.js("return document.querySelector('.foot .note').textContent")
    assert re.fullmatch(r"token \d+ · probability [<> ]*[\d.]+ · \d+ tokens/s", note)
    page.wait(IDLE)
    plain, hardened = page.replies()
    assert hardened == "I'm sorry, but I can't help with that."
    assert plain != hardened
    model = sides[1].hardened
    assert model is not None
    score = float(model.score(MALICIOUS)[0])
    assert float(page.js("return document.querySelector('.meter').getAttribute('aria-valuenow')")) == pytest.approx(score, abs=1e-3)
    why = page.js("return document.getElementById('why').innerText")
    assert re.search(r"Most came from .+ \(\+\d", why)
    assert "add up to the logit" in why
    assert "layer 15" in why
    assert "layer 23" in why
    cells, tokens = (page.js(f"return document.querySelectorAll('{cells}').length") for cells in (".map tbody td", ".read .heat"))
    assert cells == 2 * tokens
    page.wait("document.querySelector('#frontier svg')")
    told = page.js("return document.getElementById('frontier').innerText")
    assert re.search(r"At dial 0: \d+.* of \d+ malicious and .* benign prompts are refused", told)
    page.picture("chat")
    page.resize(1400)
    page.picture("why", of="#why")


def test_a_conversation_goes_on_stops_begins_anew_and_outlives_a_reload(page: Page) -> None:
    page.open()
    first = page.ask("My name is Ada. Say hello.")
    second = page.ask("What is my name?")
    assert first != second
    turns = page.js("return [...document.querySelectorAll('.column')].map(c => c.querySelectorAll('.turn').length)")
    assert turns == [4, 4]
    page.browser.refresh()
    page.wait("document.querySelectorAll('.turn').length == 8")
    assert page.replies() == second
    page.say("Tell me a very long story about the sea.", 600)
    page.wait("document.querySelectorAll('.token').length > 4")
    page.browser.find_element("css selector", "body").send_keys("\ue00c")  # Escape
    page.wait(IDLE, 5)
    assert "stopped" in page.js("return document.querySelector('.column:last-child .turn:last-child .note').textContent")
    page.set("length", 16)
    page.click("#retry")
    page.wait(IDLE)
    assert page.js("return document.querySelectorAll('.turn').length") == 12
    page.click("#fresh")
    assert page.js("return document.querySelectorAll('.turn').length") == 0
    assert page.js("return document.querySelectorAll('.preset').length") == len(PRESETS)


def test_a_preset_is_asked_by_a_click_and_a_system_prompt_is_heard(page: Page) -> None:
    page.open()
    page.js("document.querySelector('.settings').open = true")
    page.set("length", 12)
    page.set("system", "Answer in French.", "change")
    page.click(".preset.benign")
    page.wait(IDLE)
    french = page.replies()
    page.click("#fresh")
    page.set("system", "", "change")
    page.click(".preset.benign")
    page.wait(IDLE)
    assert page.replies() != french


def test_the_dial_answers_the_last_prompt_anew(page: Page) -> None:
    page.open()
    plain, hardened = page.ask(BORDERLINE)
    assert plain == hardened  # not flagged: the base model, bit for bit
    page.set("dial", 8)
    page.wait("[...document.querySelectorAll('.text')].some(e => e.textContent.startsWith(\"I'm sorry\"))")
    page.wait(IDLE)
    assert page.replies() == [plain, "I'm sorry, but I can't help with that."]
    assert page.js("return document.getElementById('dial-value').textContent") == "+8"
    page.click("#dial-reset")
    page.wait("!document.getElementById('stop').disabled")
    page.wait(IDLE)
    assert page.replies() == [plain, plain]


def test_sides_can_be_chosen(page: Page) -> None:
    page.open()
    page.js("const s = document.querySelector('.column select'); s.value = 'smollm2-safer'; s.dispatchEvent(new Event('change'))")
    first, second = page.ask(MALICIOUS)
    assert first == second == "I'm sorry, but I can't help with that."


def test_an_attack_is_made_on_both_sides(page: Page) -> None:
    page.open()
    page.click("#tab-attacks")
    labels = page.js("return [...document.querySelectorAll('#attack-buttons button')].map(b => b.textContent)")
    assert labels == ["ten wrappers", "answer begun", "harmless text first", "garbled, many times"]
    page.set("attack-request", MALICIOUS)
    for index, label in enumerate(labels):
        count, length = (4, 24) if index == 0 else (1, 12)
        page.set("attack-count", count)
        page.set("attack-length", length)
        page.click(f"#attack-buttons button:nth-child({index + 1})")
        page.wait("document.getElementById('attack-stop').disabled")
        assert page.js("return document.querySelectorAll('#attack-result .verdict').length") == 2 * count
        told = page.js("return document.getElementById('attack-headline').textContent")
        assert re.fullmatch(rf"“{label}”: smollm2 gave in \d of {count} times; smollm2-safer gave in \d of {count} times\.", told)
        if label == "answer begun":
            assert "the answer begins: Sure, here is" in page.js("return document.querySelector('.attempts').textContent")
        if index == 0:
            page.picture("attacks")


def test_a_file_of_prompts_becomes_a_table(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    prompts = [preset.text for preset in PRESETS]
    file.write_text("\n".join(prompts) + "\n")
    page.open()
    page.click("#tab-file")
    page.set("file-length", 16)
    page.js("window.kept = []; URL.createObjectURL = blob => (kept.push(blob), 'data:,')")
    page.browser.find_element("id", "pick").send_keys(str(file))
    page.wait("!document.getElementById('file-save').disabled")
    told = page.js("return document.querySelector('#file-result .lead').textContent")
    assert re.fullmatch(r"6 of 6 prompts: smollm2 refused \d, smollm2-safer refused \d\.", told)
    page.click("#file-save")
    page.js("kept[0].text().then(text => (window.csv = text))")
    page.wait("window.csv")
    rows = list(csv.reader(io.StringIO(page.js("return window.csv"))))
    assert [row[0] for row in rows[1:]] == prompts
    page.picture("file")
    bad = tmp_path / "prompts.csv"
    bad.write_text("number\n1\n")
    page.browser.find_element("id", "pick").send_keys(str(bad))
    page.wait("document.querySelector('#file-result .problem')")
    assert "none of the usual columns" in page.js("return document.querySelector('.problem').textContent")


def test_one_person_more_than_there_are_places_for_waits_and_gets_in(page: Page) -> None:
    page.open()
    tabs = [page.browser.current_window_handle]
    for _ in range(2):
        page.browser.switch_to.new_window("tab")
        tabs.append(page.browser.current_window_handle)
        page.open()
    assert "The playground is full: you are next." in page.js("return document.getElementById('notice').textContent")
    page.browser.switch_to.window(tabs[1])
    page.browser.close()
    page.browser.switch_to.window(tabs[2])
    page.wait("document.querySelector('.preset')", 20)
    assert page.js("return document.getElementById('notice').hidden")
    page.browser.close()
    page.browser.switch_to.window(tabs[0])


def test_a_place_that_was_left_goes_to_who_waits_and_is_there_again_for_who_comes_back(browser: Any, sides: list[Side]) -> None:
    with served(sides, browser, places=1, patience=1.0) as address:
        page = Page(browser, address)
        page.open()
        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        page.open()
        page.wait("document.querySelector('.preset')", 20)  # after it has waited
        browser.switch_to.window(first)
        page.wait("!document.getElementById('notice').hidden", 20)
        assert "Your place went to somebody who waited" in page.js("return document.getElementById('notice').textContent")
        browser.find_element("id", "prompt").send_keys("H")
        page.wait("document.getElementById('notice').hidden", 20)  # the other one, who does nothing either, has made room
        assert browser.find_element("id", "prompt").get_attribute("value") == "H"
        browser.close()
        browser.switch_to.window(next(iter(browser.window_handles)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_and_reads_well(page: Page, width: int, scheme: str) -> None:
    page.open(width, 900, scheme)
    page.ask(MALICIOUS)
    page.resize(width)
    if (width, scheme) in PICTURES:
        page.picture(PICTURES[width, scheme])
    for tab in ("chat", "attacks", "file"):
        page.click(f"#tab-{tab}")
        seen = page.js(SEEN)
        assert seen["overflow"] <= 0, tab
        assert seen["wide"] == [], tab
        assert seen["unnamed"] == [], tab
        assert seen["faint"] == [], tab
        assert seen["small"] == [], tab


SEEN = """
    const all = [...document.querySelectorAll("body *")];
    const shown = all.filter(e => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length);
    const rgb = color => {
        const parts = color.match(/[\\d.]+/g).map(Number);
        const scale = color.startsWith("color(") ? 255 : 1;
        return [...parts.slice(0, 3).map(part => scale * part), parts[3] ?? 1];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
    const paper = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(rgb(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const light = color => {
        const [r, g, b] = color.map(part => part / 255).map(part => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = element => {
        const below = paper(element), above = over(rgb(getComputedStyle(element).color), below);
        const [dark, bright] = [light(below), light(above)].sort((a, b) => a - b);
        return (bright + 0.05) / (dark + 0.05);
    };
    const hasWords = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const worded = shown.filter(e => !e.closest("svg, .sr, option, :disabled") && hasWords(e));
    const named = e => e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim();
    const brief = e => e.outerHTML.slice(0, 120);
    return {
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        wide: shown.filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .sr, option")).map(brief),
        unnamed: shown.filter(e => e.matches("button, input, select, textarea, [role=region], [role=log]") && !named(e)).map(brief),
        faint: worded.filter(e => contrast(e) < 4.5).map(e => `${contrast(e).toFixed(2)} ${brief(e)}`),
        small: shown.filter(e => e.matches("button:not(.link), select") && e.getBoundingClientRect().height < 24).map(brief),
    };
"""
