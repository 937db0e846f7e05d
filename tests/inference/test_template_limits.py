"""Chat templates that loop or grow without end are errors, and ordinary ones are rendered as ever."""

from __future__ import annotations

import threading
import time

import pytest

from mogu.errors import ChatTemplateError
from mogu.inference.prompts import render_prompt
from mogu.inference.template_limits import SECONDS, TemplateTimeoutError, within_limits

MANY = "{% for i in range(99999) %}"
GROWING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
MILLION = "{% set x = 'a' * 1000000 %}"

ENDLESS = {
    "loops in loops": MANY * 3 + "{% endfor %}" * 3,
    "a macro that goes on": f"{{% macro f() %}}{MANY}{{% endfor %}}{{% endmacro %}}{MANY}{{{{ f() }}}}{{% endfor %}}",
    "lists of lists": f"{{% set ns = namespace(x=[]) %}}{MANY}{{% set ns.x = ns.x + [range(99999)|list] %}}{{% endfor %}}",
}
TOO_LARGE = {
    "a product": "{{ 'a' * 10000000000 }}",
    "a list's product": "{{ [1] * 10000000000 }}",
    "a power": "{{ 10 ** 10000000 }}",
    "a text that doubles": GROWING.replace("START", "'a'").replace("STEP", "ns.x ~ ns.x"),
    "a sum that doubles": GROWING.replace("START", "'a'").replace("STEP", "ns.x + ns.x"),
    "a list that doubles": GROWING.replace("START", "[1]").replace("STEP", "ns.x + ns.x"),
    "a number that squares": GROWING.replace("START", "9").replace("STEP", "ns.x * ns.x"),
    "a block that doubles": GROWING.replace(
        "{% set ns.x = STEP %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    ).replace("START", "'a'"),
    "a width in a format": "{{ '{:>10000000000}'.format('a') }}",
    "a width that is an argument": "{{ '{:>{w}}'.format('a', w=10000000000) }}",
    "a width behind a percent sign": "{{ '%10000000000s' % 'a' }}",
    "a width that is a star": "{{ '%*s' % (10000000000, 'a') }}",
    "a filter's width": "{{ 'a'|center(10000000000) }}",
    "a filter's format": "{{ '%10000000000d'|format(1) }}",
    "a method's width": "{{ 'a'.ljust(10000000000) }}",
    "an indent": "{{ ('a\n' * 100000)|indent(1000000000) }}",
    "JSON's indent": "{{ messages|tojson(indent=1000000000) }}",
    "a replacement": MILLION + "{{ x.replace('a', x) }}",
    "a filter's replacement": MILLION + "{{ x|replace('a', x) }}",
    "a join": MILLION + "{{ x|join(x) }}",
    "a method's join": MILLION + "{{ x.join(x) }}",
    "what is written": MILLION + MANY + "{{ x }}{% endfor %}",
    "a list that is added up": "{% set x = [1] * 1000000 %}{{ ([x] * 1000000)|sum(start=[]) }}",
    "what is kept": "{% set x = 'a' * 8000000 %}{% set ns = namespace(l=[]) %}" + MANY + "{% set ns.l = ns.l + [x ~ 'b'] %}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_an_error(tokenizer, monkeypatch, name):
    monkeypatch.setattr("mogu.inference.template_limits.SECONDS", 0.2)
    monkeypatch.setattr(tokenizer, "chat_template", ENDLESS[name])
    with pytest.raises(ChatTemplateError, match=r"it ran for more than 0\.2 seconds|far too many"):
        render_prompt(tokenizer, "hello")


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_template_that_makes_too_much_is_an_error(tokenizer, monkeypatch, name):
    monkeypatch.setattr(tokenizer, "chat_template", TOO_LARGE[name])
    with pytest.raises(ChatTemplateError, match=r"it makes a text or list of more than 8,388,608"):
        render_prompt(tokenizer, "hello")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
        "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
        "{% include '/etc/passwd' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages.append.__globals__ }}",
    ],
)
def test_the_sandbox_still_stands(tokenizer, monkeypatch, template, tmp_path):
    monkeypatch.setattr(tokenizer, "chat_template", template.replace("MARK", str(tmp_path / "mark")))
    with pytest.raises(ChatTemplateError):
        render_prompt(tokenizer, "hello")
    assert not (tmp_path / "mark").exists()


def test_ordinary_templates_are_rendered_as_ever(tokenizer, monkeypatch):
    template = (
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim }}{% endfor %}|{{ '%s-%03d' % ('a', 3) }}|{{ 'a'.center(5) }}|"
        "{{ ['a', 'b']|join(', ') }}|{{ messages|tojson(indent=1) }}|{{ 'xx'.replace('x', 'y') }}|{{ 2 ** 10 }}|{{ '{:3}'.format(7) }}|"
        "{% set b %}{{ 1 }}{{ 2 }}{% endset %}{{ b }}|{{ [1, 2]|sum }}|{{ [[1], [2]]|sum(start=[]) }}|{{ 'a\nb'|indent(2) }}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    expected = 'user: hello|a-003|  a  |a, b|[\n {\n  "role": "user",\n  "content": "hello"\n }\n]|yy|1024|  7|12|3|[1, 2]|a\n  b'
    assert render_prompt(tokenizer, "hello") == expected


def test_another_thread_is_not_interrupted_nor_what_comes_after(monkeypatch):
    monkeypatch.setattr("mogu.inference.template_limits.SECONDS", 0.1)
    ended = []

    def go_on() -> None:
        with within_limits():
            while True:
                pass

    def quick() -> None:
        for _ in range(200):
            with within_limits():
                sum(range(100))
        ended.append("quick")

    thread = threading.Thread(target=quick)
    thread.start()
    with pytest.raises(TemplateTimeoutError):
        go_on()
    thread.join()
    stop = time.monotonic() + 0.3
    while time.monotonic() < stop:
        pass
    assert ended == ["quick"]
    assert SECONDS < 2
