"""`mogu chat`: talk with a hardened model; replies stream as they are generated, followed by the score of each prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mogu.cli._options import (
    AnswerMarker,
    BaseModel,
    ChatTemplate,
    Dial,
    Dtype,
    ModelPath,
    RoutedTokens,
    StrictBase,
    TrustRemoteCode,
    routing_options,
)
from mogu.cli._shared import load_model

if TYPE_CHECKING:
    from mogu.modeling.model import MoguModel

_HELP = "/reset clears the conversation, /dial VALUE sets the dial, /quit or end of input exits."


def chat(
    path: ModelPath,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = 512,
    dial: Dial = None,
    routed_tokens: RoutedTokens = None,
    answer_marker: AnswerMarker = None,
    system: Annotated[str | None, typer.Option(help="System message to start the conversation with.")] = None,
    base_model: BaseModel = None,
    strict_base: StrictBase = False,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Talk with a hardened model. Each reply is followed by the malicious score of the prompt, from 0 to 1.

    Example: mogu chat safer-model --dial 0.5
    """
    options = routing_options(routed_tokens, answer_marker)
    console = Console(highlight=False)
    with console.status("loading …"):
        model = load_model(
            path,
            base_model=base_model,
            strict_base=strict_base,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            chat_template=chat_template,
            dial=dial,
        )
    console.print(_HELP)
    opening: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    turns = list(opening)
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except EOFError:
            console.print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            turns = list(opening)
        elif line.startswith("/dial"):
            _set_dial(model, line.removeprefix("/dial").strip(), console)
        elif line.startswith("/"):
            console.print(_HELP)
        elif line:
            turns.append({"role": "user", "content": line})
            turns.append({"role": "assistant", "content": _reply(model, turns, max_new_tokens, options, console)})


def _set_dial(model: MoguModel, value: str, console: Console) -> None:
    try:
        model.dial = float(value)
    except ValueError:
        console.print(f"The dial takes a number, such as 0.5; it is at {model.dial:g}.")
    else:
        console.print(f"The dial is at {model.dial:g}.")


def _reply(model: Any, turns: list[dict[str, str]], max_new_tokens: int, options: dict[str, Any], console: Console) -> str:
    """Stream a reply to the console; returns what later turns read of it."""
    from transformers import TextStreamer

    from mogu.inference.padding import left_pad
    from mogu.inference.prompts import behind, encode_marker, encode_prompt
    from mogu.inference.replies import decode_reply, ending_options
    from mogu.inference.thoughts import without_thoughts

    tokenizer = model.tokenizer

    class ConsoleStreamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            console.print(escape(text), end="\n" if stream_end else "", soft_wrap=True)

    batch = left_pad([encode_prompt(tokenizer, turns)], 0, model.device)
    streamer = ConsoleStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(
        **batch, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer, **ending_options(model, tokenizer), **options
    )
    if model.prompt_scores is not None:
        score = float(model.prompt_scores[0])
        console.print(f"[{'red' if score >= 0.5 else 'green'}]score {score:.2f}[/]")
    reply = output[0, batch["input_ids"].shape[1] :].tolist()
    # Thoughts are no part of the conversation, neither those in the usual marks nor those before a marker of the user's.
    marker = options.get("answer_marker", model.mogu_config.answer_marker)
    if marker is not None:
        reply = behind(reply, encode_marker(tokenizer, marker))
    return without_thoughts(decode_reply(tokenizer, reply)).strip()
