"""`mogu chat`: talk with a hardened model; its words appear as they come, with the score of each prompt."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mogu.cli._options import AnswerMarker, BaseModel, ChatTemplate, Dial, Dtype, ModelPath, RoutedTokens, TrustRemoteCode, routing_options
from mogu.cli._shared import load_model

_HELP = "/reset forgets the conversation, /dial VALUE turns the dial, /quit or end of input leaves."


def chat(
    path: ModelPath,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a reply, at most.")] = 512,
    dial: Dial = None,
    routed_tokens: RoutedTokens = None,
    answer_marker: AnswerMarker = None,
    system: Annotated[str | None, typer.Option(help="A system message before the conversation.")] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Talk with a hardened model. After each reply stands how malicious the model found the prompt, from 0 to 1.

    Example: mogu chat safer-model --dial 0.5
    """
    options = routing_options(routed_tokens, answer_marker)
    console = Console(highlight=False)
    with console.status("loading …"):
        model = load_model(
            path, base_model=base_model, dtype=dtype, trust_remote_code=trust_remote_code, chat_template=chat_template, dial=dial
        )
    console.print(_HELP)
    opening: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    turns = list(opening)
    while True:
        try:
            said = console.input("[bold]you>[/bold] ").strip()
        except EOFError:
            console.print()
            return
        if said == "/quit":
            return
        if said == "/reset":
            turns = list(opening)
        elif said.startswith("/dial"):
            _turn(model, said.removeprefix("/dial").strip(), console)
        elif said.startswith("/"):
            console.print(_HELP)
        elif said:
            turns.append({"role": "user", "content": said})
            turns.append({"role": "assistant", "content": _reply(model, turns, max_new_tokens, options, console)})


def _turn(model: Any, value: str, console: Console) -> None:
    try:
        model.dial = float(value)
    except ValueError:
        console.print(f"The dial takes a number, such as 0.5; it is at {model.dial:g}.")
    else:
        console.print(f"The dial is at {model.dial:g}.")


def _reply(model: Any, turns: list[dict[str, str]], max_new_tokens: int, options: dict[str, Any], console: Console) -> str:
    from transformers import TextStreamer

    from mogu.inference.padding import left_pad
    from mogu.inference.prompts import behind, encode_marker, encode_prompt

    tokenizer = model.tokenizer

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            console.print(escape(text), end="\n" if stream_end else "", soft_wrap=True)

    batch = left_pad([encode_prompt(tokenizer, turns)], 0, model.device)
    streamer = Shown(tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(
        **batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, streamer=streamer, **options
    )
    if model.prompt_scores is not None:
        score = float(model.prompt_scores[0])
        console.print(f"[{'red' if score >= 0.5 else 'green'}]score {score:.2f}[/]")
    said = output[0, batch["input_ids"].shape[1] :].tolist()
    marker = options.get("answer_marker", model.mogu_config.answer_marker)
    if marker is not None:  # what comes before is a reasoning block: no part of what the next turn reads
        said = behind(said, encode_marker(tokenizer, marker))
    return str(tokenizer.decode(said, skip_special_tokens=True)).strip()
