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


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each of many prompts.

    Raises:
        ChatTemplateError: as of :func:`render_prompt`; of several prompts it names the one.
    """
    encoded = []
    for number, prompt in enumerate(prompts, 1):
        try:
            encoded.append(encode_prompt(tokenizer, prompt))
        except ChatTemplateError as error:
            if len(prompts) == 1:
                raise
            last: dict[str, Any] = next(reversed(as_conversation(prompt)), {})
            found = f"Prompt {number} of {len(prompts)} ({str(last.get('content'))[:_SHOWN]!r}…): {error.found}"
            raise ChatTemplateError(found, expected=error.expected, action=error.action) from error
    return encoded


_SHOWN = 60
"""Characters of a prompt that an error shows."""


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
        tokenizer: its template decides what stands between prompt and answer, how the answer is trimmed, and what ends a turn.
        prompt: the conversation that is answered.
        answer: the answer's text.
        closed: whether the end of the turn follows; an opening that is to go on has none.

    Raises:
        ChatTemplateError: the template refuses the conversation; or it ends no turn, and the tokenizer has no token for that.
    """
    before = render_prompt(tokenizer, prompt)
    whole = _with_answer(tokenizer, prompt, answer)
    said, behind_answer = _said(whole, answer, before)
    text = before + said  # of templates that rewrite what was said before
    if whole.startswith(before) and behind_answer is not None:
        text = whole[: len(whole) - len(behind_answer)]
    if closed:
        text += _end_of_turn(tokenizer, prompt, said, before, behind_answer)
    prompt_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if ids[: len(prompt_ids)] == list(prompt_ids):
        return ids[len(prompt_ids) :]
    # A token straddles the border: generation starts from the prompt's own tokens, so the answer is tokenized apart.
    return list(tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"])


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which an answer ends in the tokenizer's chat template, where it is one of the tokenizer's added tokens.

    Not every model's generation settings name it. ``None`` where the template only writes prompts, or ends turns with plain text.
    """
    if not tokenizer.chat_template:
        return None
    try:
        last = encode_answer(tokenizer, "Hello", "Yes.", closed=True)[-1]
    except ChatTemplateError:
        return None
    return last if last in tokenizer.added_tokens_decoder else None


def _with_answer(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str, *later: dict[str, Any]) -> str:
    turns = [*as_conversation(prompt), {"role": "assistant", "content": answer}, *later]
    try:
        return apply_template(tokenizer, turns, prompt)
    except Exception as error:  # as of render_prompt
        raise ChatTemplateError(
            f"The chat template of {tokenizer.name_or_path or 'this model'} failed on a conversation with its answer: {error}",
            expected="a template that accepts an answer behind the prompt",
            action="drop what it refuses, or give another template with --chat-template FILE",
        ) from error


def _said(whole: str, answer: str, before: str) -> tuple[str, str | None]:
    """An answer as a template writes it, which may trim it, and what the template writes behind it; ``None`` where it is not found."""
    forms = (answer, answer.rstrip(), answer.lstrip(), answer.strip())
    if whole.startswith(before):
        found = ((said, whole.find(said, len(before))) for said in forms)
    else:  # the template writes earlier turns anew: the answer is the last thing that reads like it
        found = ((said, whole.rfind(said)) for said in forms)
    return next(((said, whole[place + len(said) :]) for said, place in found if place >= 0), (answer, None))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, said: str, before: str, behind_answer: str | None) -> str:
    """What ends an answer, and nothing behind that.

    That is what the template writes behind it. A template that writes the header of the next answer there as well, whether it was asked
    to or not, is taken at the first of the tokenizer's tokens. One that leaves the last turn open is asked what it writes before
    another turn: the token that this begins with ends the answer, as in GLM-4, and otherwise the tokenizer's own end.
    """
    closing = (behind_answer or "").rstrip()
    if closing and closing in tokenizer.all_special_tokens:
        return closing  # as nearly all templates have it
    token = _token_at_start(tokenizer, closing)
    if closing and (token == closing or not _writes_header_unasked(tokenizer, prompt, before, behind_answer or "")):
        return closing
    if not closing and behind_answer is not None:
        try:
            longer = _with_answer(tokenizer, prompt, said, {"role": "user", "content": _LATER})
        except ChatTemplateError:
            longer = ""
        _, behind_it = _said(longer, said, before)
        token = _token_at_start(tokenizer, behind_it or "")
    end = token or tokenizer.eos_token
    if not end:
        raise ChatTemplateError(
            f"The chat template of {tokenizer.name_or_path or 'this model'} ends no turn, and its tokenizer has no end token",
            expected="something that an answer ends with",
            action="give a template that closes the assistant's turns with --chat-template FILE, or set tokenizer.eos_token",
        )
    return str(end)


_LATER = "Thank you."


def _token_at_start(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The added token that a text begins with, and white space before it; empty where there is none."""
    start = text.lstrip()
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    token = max((token for token in tokens if token.strip() and start.startswith(token)), key=len, default="")
    return text[: len(text) - len(start)] + token if token else ""


def _writes_header_unasked(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, before: str, behind_answer: str) -> bool:
    """Whether what stands behind an answer ends with what introduces the next one."""
    if not before.rstrip().endswith(behind_answer.rstrip()[-1:]):
        return False
    return apply_template(tokenizer, as_conversation(prompt), prompt, add_generation_prompt=False) == before
