"""`mogu chat`: talk with a hardened model; the score of each prompt comes first, and the reply streams as it is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mogu.cli._options import (
    AnswerMarker,
    BaseModel,
    ChatTemplate,
    Dial,
    Dtype,
    ModelPath,
    Quantization,
    RoutedTokens,
    StrictBase,
    TrustRemoteCode,
    routing_options,
)
from mogu.cli._shared import load_model
from mogu.errors import MoguError

if TYPE_CHECKING:
    from mogu.cli._conversation import Conversation

_HELP = """\
/why          why the last prompt was scored as it was, by token and layer
/base         what the base model says to it
/dial VALUE   set the dial
/attack NAME  attack the base and the hardened model with it; without a name, lists the attacks
/save FILE    write the conversation as a line of JSON
/reset        clear the conversation
/quit         or the end of input exits"""


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
    quantization: Quantization = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Talk with a hardened model. Before each reply comes the malicious score of the prompt, from 0 to 1.

    While you talk, /why says why a prompt was scored as it was, /base answers it with the base model, /attack attacks with it, and /help
    lists all commands.

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
            quantization=quantization,
            trust_remote_code=trust_remote_code,
            chat_template=chat_template,
            dial=dial,
        )
        from mogu.cli._conversation import Conversation

        conversation = Conversation(model, console, system=system, max_new_tokens=max_new_tokens, options=options)
    console.print(_HELP, markup=False)
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except EOFError:
            console.print()
            return
        if line == "/quit":
            return
        try:
            _obey(line, conversation, console)
        except MoguError as error:  # of what was typed, not of the model: the conversation goes on
            console.print(str(error), markup=False, soft_wrap=True)


def _obey(line: str, conversation: Conversation, console: Console) -> None:
    command, _, argument = line.partition(" ")
    argument = argument.strip()
    match command:
        case "/reset":
            conversation.reset()
        case "/dial":
            conversation.set_dial(argument)
        case "/why":
            conversation.why()
        case "/base":
            conversation.base()
        case "/attack":
            conversation.attack(argument)
        case "/save" if argument:
            conversation.save(argument)
        case _ if line.startswith("/"):
            console.print(_HELP, markup=False)
        case _ if line:
            conversation.say(line)
