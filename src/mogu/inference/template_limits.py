"""Chat templates within bounds of time and size: one that loops, or grows without end, is an error.

A template is a program that comes with a model. transformers runs it in Jinja's sandbox, which keeps it from files and code, but not from
``range(99999)`` three deep, nor from ``'a' * 10**10``. Here a thread beside interrupts what takes too long, and whatever can make much out
of little (products, powers, joins, formats, filters with a width) is measured before it is made: since a single such step then takes
little time and memory, the steps between can be interrupted. Knows Jinja; knows nothing of tokenizers or prompts.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.5
"""How long a conversation may take to render: ordinary templates take milliseconds."""
MOST_CHARACTERS = 2**23
"""Of any one text that a template makes; of a list, elements."""
MOST_TOGETHER = 2**28
"""Characters of all that a template makes for one conversation; an element of a list counts for sixteen."""

_ELEMENT = 16  # what an element of a list counts for: a pointer, and the thing that it points to
_MOST_BITS = 2**16
_WIDEST = 10_000
_WIDE = re.compile(r"\*|\d{5,}")
_WIDE_OR_NESTED = re.compile(r":[^{}]*(?:\{|\d{5,})")
_UNUSED_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")  # slow on long texts, and no chat template's business
_TICK = 0.05


class TemplateTimeoutError(Exception):
    """A template ran for too long."""


@dataclass
class _Spent:
    """What the template of one conversation has made so far."""

    made: int = 0


_SPENT: ContextVar[_Spent | None] = ContextVar("mogu_template_spent", default=None)


@dataclass(eq=False)
class _Scope:
    """A stretch of code that one thread must get through in time."""

    thread: int = field(default_factory=threading.get_ident)
    ticks: int = 0
    interrupted: bool = False


class _Watch:
    """One thread that looks after all scopes of this process, and waits while there are none."""

    def __init__(self) -> None:
        self._lock, self._needed = threading.Lock(), threading.Event()
        self._scopes: set[_Scope] = set()
        self._thread: threading.Thread | None = None

    def enter(self, scope: _Scope) -> None:
        with self._lock:
            self._scopes.add(scope)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mogu template watch", daemon=True)
                self._thread.start()
        self._needed.set()

    def leave(self, scope: _Scope) -> None:
        with self._lock:
            self._scopes.discard(scope)
            if scope.interrupted:  # what was not raised by now is not to be raised later, in somebody else's code
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(scope.thread), None)

    def _run(self) -> None:
        while True:
            self._needed.wait()
            time.sleep(_TICK)
            with self._lock:
                if not self._scopes:
                    self._needed.clear()
                for scope in list(self._scopes):
                    # Ticks rather than a clock: a machine that sleeps or starves this process must not use the time up.
                    scope.ticks += 1
                    if scope.ticks * _TICK >= SECONDS:
                        scope.interrupted = True
                        self._scopes.discard(scope)
                        timeout = ctypes.py_object(TemplateTimeoutError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(scope.thread), timeout)


_watch = _Watch()


def _watch_anew() -> None:
    global _watch
    _watch = _Watch()  # the thread does not live on in a forked process, and its lock might be held there


os.register_at_fork(after_in_child=_watch_anew)


@contextmanager
def within_limits() -> Iterator[None]:
    """Interrupt what runs for too long in this thread, and count what templates make.

    Raises:
        TemplateTimeoutError: it ran for more than ``SECONDS``.
    """
    scope, token, watch = _Scope(), _SPENT.set(_Spent()), _watch
    watch.enter(scope)
    try:
        try:
            yield
        finally:
            watch.leave(scope)
    except TemplateTimeoutError:
        raise TemplateTimeoutError(f"it ran for more than {SECONDS:g} seconds") from None
    finally:
        _SPENT.reset(token)


def limit_templates() -> None:
    """Let transformers compile chat templates into an environment with limits, once and for all of this process."""
    from transformers.utils import chat_template_utils

    library: Any = chat_template_utils
    if library.ImmutableSandboxedEnvironment is not LimitedEnvironment:
        library.ImmutableSandboxedEnvironment = LimitedEnvironment
        library._compile_jinja_template.cache_clear()


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat([str(part) for part in (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")])")


def _joined(parts: Iterable[str]) -> str:
    listed = parts if isinstance(parts, list) else _listed(parts)
    _allow(sum(map(len, listed)))
    return "".join(listed)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no step makes more than ``MOST_CHARACTERS``, nor all of them more than ``MOST_TOGETHER``."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(_joined)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.globals.pop("lipsum", None)
        for name in _UNUSED_FILTERS:
            self.filters.pop(name, None)

    def from_string(self, *args: Any, **kwargs: Any) -> Any:
        """Compile a template, whose filters have limits from here on."""
        self.filters = {name: _limited_filter(name, function) for name, function in self.filters.items()}
        return super().from_string(*args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Carry out ``+``, ``*``, ``**`` or ``%``, unless that would make too much."""
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _allow(len(left) + len(right))
        elif operator == "*" and not numbers:
            sized, times = (left, right) if isinstance(left, Sized) else (right, left)
            if isinstance(sized, Sized) and isinstance(times, int):
                _allow(len(sized) * max(times, 0))
        elif operator == "*":
            _allow_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and numbers:
            _allow_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _too_much()
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method, unless what it returns would be too much."""
        _check_method(__obj, args, kwargs)
        return _measured(ImmutableSandboxedEnvironment.call(__self, __context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` without widths beyond measure, also where a width is an argument."""
        formatted = super().wrap_str_format(value)
        if formatted is not None and _WIDE_OR_NESTED.search(value.__self__):
            raise _too_much()
        return formatted


def _too_much() -> SecurityError:
    return SecurityError(f"it makes a text or list of more than {MOST_CHARACTERS:,} characters or elements, or far too many of them")


def _allow(size: int, each: int = 1) -> None:
    spent = _SPENT.get()
    if spent is not None:
        spent.made += size * each
    if size > MOST_CHARACTERS or (spent is not None and spent.made > MOST_TOGETHER):
        raise _too_much()


def _allow_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise _too_much()


def _measured(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple | dict):
        _allow(len(value), each=1 if isinstance(value, str | bytes) else _ELEMENT)
    return value


def _listed(values: Iterable[Any]) -> list[Any]:
    listed = []
    for value in values:
        listed.append(value)
        if len(listed) > MOST_CHARACTERS:
            raise _too_much()
    return listed


def _check_method(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(owner, str | bytes):
        return
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        _check_widths((*args, *kwargs.values()))
    elif name == "replace" and len(args) > 1:
        _check_replace(owner, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], Sized):
        _check_join(owner, list(args[0]))  # type: ignore[call-overload]
    elif name == "translate" and args and isinstance(args[0], dict):
        _allow(len(owner) * max((len(text) for text in args[0].values() if isinstance(text, str)), default=1))


def _limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if hasattr(function, "jinja_pass_arg") else args
        value, rest = (given[0] if given else None), given[1:]
        if name in ("center", "indent", "round", "tojson", "batch", "slice"):
            _check_widths((*rest, *kwargs.values()))
        elif name == "format" and _WIDE.search(str(value)):
            raise _too_much()
        elif name == "replace" and len(rest) > 1:
            _check_replace(str(value), str(rest[0]), str(rest[1]))
        elif name in ("join", "sum") and isinstance(value, Iterable):
            items = _listed(value)
            _check_join(rest[0] if name == "join" and rest else kwargs.get("d", ""), items)
            args = (*args[: len(args) - len(given)], items, *rest)
        return _measured(function(*args, **kwargs))

    return limited


def _check_widths(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and value > _WIDEST for value in values):
        raise _too_much()


def _check_replace(text: Any, old: Any, new: Any) -> None:
    if isinstance(new, Sized) and type(text) is type(old):
        _allow(len(text) + text.count(old) * len(new))


def _check_join(separator: Any, items: list[Any]) -> None:
    _allow(len(str(separator)) * len(items) + sum(len(item) for item in items if isinstance(item, Sized)))
