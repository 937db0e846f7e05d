"""From a conversation to the prompt's token ids, by the tokenizer's own chat template.

Knows tokenizers; knows nothing of models, records or training. Importing it imports no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mogu.errors import ChatTemplateError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[dict[str, Any]]
"""Messages as chat templates take them: ``role`` and ``content``, in tool conversations also ``tool_calls``, ``name``, ``tool_call_id``."""


@dataclass(frozen=True)
class WithTools:
    """A conversation in which the model is offered tools.

    Args:
        messages: the conversation.
        tools: as ``apply_chat_template`` takes them: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    messages: Conversation
    tools: Sequence[dict[str, Any]]


_DATE: ContextVar[datetime | None] = ContextVar("mogu_template_date", default=None)

Prompt = str | Conversation | WithTools
"""What a model can be asked. Every message and tool reaches the template as it is."""


def as_conversation(prompt: Prompt) -> list[dict[str, Any]]:
    """A plain instruction as a conversation of one user message; the messages of a conversation as they are."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return list(prompt.messages if isinstance(prompt, WithTools) else prompt)


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The text that stands before the assistant's answer, special tokens included.

    A conversation that ends with words of the assistant is one whose answer has been begun: the text then ends with these words, and the
    model goes on from there.

    Raises:
        ChatTemplateError: the tokenizer has no chat template, its template refuses the conversation, or says nothing of its tools.
    """
    if not tokenizer.chat_template:
        raise ChatTemplateError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template",
            expected="a template that turns a conversation into a prompt",
            action="give a Jinja file with --chat-template FILE, or set tokenizer.chat_template",
        )
    turns = as_conversation(prompt)
    ending: dict[str, Any] = {"continue_final_message": True} if _is_begun(turns) else {"add_generation_prompt": True}
    try:
        rendered = apply_template(tokenizer, turns, prompt, **ending)
        unheard = isinstance(prompt, WithTools) and rendered == apply_template(tokenizer, prompt.messages, "", **ending)
    except Exception as error:  # templates raise whatever they like, jinja2's errors among it
        raise ChatTemplateError(
            f"The chat template of {tokenizer.name_or_path or 'this model'} failed on a conversation: {error}",
            expected="a template that accepts the roles of the conversation",
            action="drop the roles it refuses (often 'system'), or give another template with --chat-template FILE",
        ) from error
    if unheard:
        raise ChatTemplateError(
            f"The chat template of {tokenizer.name_or_path or 'this model'} says nothing of the tools that it is given",
            expected="a template that tells the model of its tools",
            action="leave the tools out, or give a template that knows them with --chat-template FILE",
        )
    return rendered


def _is_begun(turns: Conversation) -> bool:
    """Whether the answer has been begun: the last message is the assistant's, and says something rather than calling a tool."""
    last = turns[-1] if turns else {}
    return last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")


@contextmanager
def fixed_date(date: datetime) -> Iterator[None]:
    """Let templates that write today's date write this one, so that what takes days, or goes on after midnight, sees one prompt."""
    token = _DATE.set(date)
    try:
        yield
    finally:
        _DATE.reset(token)


def apply_template(tokenizer: PreTrainedTokenizerBase, turns: Conversation, offered: Prompt = "", **options: Any) -> str:
    """A conversation in the words of the tokenizer's chat template, in little time and space, see :mod:`mogu.inference.template_limits`.

    Args:
        tokenizer: has the template.
        turns: the conversation.
        offered: where it is a prompt with tools, the template is told of these.
        options: for ``apply_chat_template``.

    Raises:
        Exception: whatever the template raises, or for taking too long.
    """
    tools: list[Any] | None = list(offered.tools) if isinstance(offered, WithTools) else None
    date = _DATE.get()
    if date is not None and isinstance(tokenizer.chat_template, str):
        options["chat_template"] = _dated(tokenizer.chat_template, date)
    from mogu.inference.template_limits import limit_templates, within_limits

    limit_templates()
    with within_limits():
        return str(tokenizer.apply_chat_template(list(turns), tools=tools, tokenize=False, **options))


_WRITES_DATE = re.compile(r"""strftime_now\(\s*(?:'([^']*)'|"([^"]*)")\s*\)""")


def _dated(template: str, date: datetime) -> str:
    """A template whose own ``strftime_now`` stands in for the library's, which reads the clock and cannot be replaced from outside."""
    formats = {single or double for single, double in _WRITES_DATE.findall(template)}
    if not formats:
        return template
    dates = json.dumps({text: date.strftime(text) for text in sorted(formats)}, ensure_ascii=False)
    return f"{{%- macro strftime_now(format) -%}}{{{{- {dates}[format] -}}}}{{%- endmacro %}}\n{template}"


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of :func:`render_prompt`; the template writes the special tokens, so none are added."""
    ids = tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    return list(ids)


def template_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of the chat template, to notice that a model is used with another template than it was trained with."""
    template = tokenizer.chat_template
    if not template:
        return None
    return hashlib.sha256(str(template).encode()).hexdigest()


def encode_marker(tokenizer: PreTrainedTokenizerBase, marker: str) -> tuple[int, ...]:
    """Token ids of a marker that the model writes, such as ``"</think>"``: the same ones wherever it stands.

    Raises:
        ConfigError: the tokenizer does not know it, or writes it differently in different places, so that it could be missed.
    """
    ids = tuple(tokenizer(marker, add_special_tokens=False)["input_ids"])
    around = [("so.", "\n\n"), ("so.\n", "\nThe"), ("so ", " The"), ("so", "The")]
    texts = [f"{before}{marker}{after}" for before, after in around]
    if not ids or tokenizer.unk_token_id in ids or any(_start_of(ids, tokenizer(text)["input_ids"]) is None for text in texts):
        raise ConfigError(
            f"The answer marker {marker!r} is not always the same tokens to this tokenizer",
            expected="a marker of special tokens, such as '</think>' in models that were trained with it",
            action="name the marker that this model really writes, without white space around it, or none",
        )
    return ids


def behind(tokens: list[int], marker: tuple[int, ...]) -> list[int]:
    """The tokens behind the first marker; all of them where there is none."""
    start = _start_of(marker, tokens)
    return tokens if start is None else tokens[start + len(marker) :]


def _start_of(marker: tuple[int, ...], tokens: Sequence[int]) -> int | None:
    return next((start for start in range(len(tokens)) if tuple(tokens[start : start + len(marker)]) == marker), None)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str, *, closed: bool) -> list[int]:
    """Token ids of an answer as the model would generate it after :func:`encode_prompt` of the same prompt.

    Args:
        tokenizer: its template decides what stands between prompt and answer, and what ends a turn.
        prompt: the conversation that is answered.
        answer: the answer's text.
        closed: whether the end-of-turn token follows; an opening that is to go on has none.
    """
    before = render_prompt(tokenizer, prompt)
    turns = [*as_conversation(prompt), {"role": "assistant", "content": answer}]
    whole = apply_template(tokenizer, turns, prompt)
    end = whole.find(answer, len(before))
    if not whole.startswith(before) or end < 0:  # templates that rewrite what was said before
        whole, end = before + answer + str(tokenizer.eos_token or ""), len(before)
    end += len(answer)
    text = whole.rstrip() if closed else whole[:end]
    prompt_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if ids[: len(prompt_ids)] == list(prompt_ids):
        return ids[len(prompt_ids) :]
    # A token straddles the border: generation starts from the prompt's own tokens, so the answer is tokenized apart.
    return list(tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"])
