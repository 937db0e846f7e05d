"""A conversation in the terminal with a hardened model: what is said, and what the commands of `mogu chat` do with it.

Knows a console and a model; knows nothing of how commands are typed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mogu.errors import ConfigError
from mogu.files.text_files import write_line_files
from mogu.inference.prompts import behind, encode_marker, encode_prompt
from mogu.inference.replies import ReplySettings, decode_reply
from mogu.inference.streaming import StreamedToken, stream_replies
from mogu.inference.thoughts import without_thoughts
from mogu.modeling.explanation import Explanation, explain
from mogu.modeling.model import MoguModel

if TYPE_CHECKING:
    from mogu.playground.answering import Event

_TOKENS_OF_AN_ATTACK = 48
_SHOWN = 60
"""Characters of a reply to an attack."""
_VERDICTS = {"full_refusal": "refused", "partial_refusal": "refused in part", "compliance": "said something else"}


class Conversation:
    """What was said so far.

    Args:
        model: the hardened model.
        console: where replies are printed.
        system: a system message to begin with.
        max_new_tokens: of a reply.
        options: of the model's ``generate``.
    """

    def __init__(self, model: MoguModel, console: Console, *, system: str | None, max_new_tokens: int, options: dict[str, Any]) -> None:
        self.model, self.console = model, console
        self._opening = [{"role": "system", "content": system}] if system else []
        self._max_new_tokens, self._options = max_new_tokens, options
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._turns = list(self._opening)
        self._scores: list[float] = []

    def say(self, text: str) -> None:
        """Say something; the score and the reply are printed, and later turns read both sides of it."""
        turns = [*self._turns, {"role": "user", "content": text}]
        score = self._print_score(turns)
        reply = self._reply(turns, self._options)
        self._turns = [*turns, {"role": "assistant", "content": reply}]
        self._scores.append(score)

    def base(self) -> None:
        """Print what the base model says to the last prompt; the conversation goes on without it."""
        with self.model.routing("off"):
            self._reply(self._prompt(), {})

    def why(self) -> None:
        """Print why the last prompt was scored as it was."""
        explanation = explain(self.model, self._prompt())
        self.console.print(_colored(explanation))
        self.console.print(_sentence(explanation), soft_wrap=True)
        self.console.print(_layers(explanation), soft_wrap=True)

    def set_dial(self, value: str) -> None:
        """Set the dial to a number that was typed."""
        try:
            self.model.dial = float(value)
        except (ValueError, ConfigError):
            self.console.print(f"The dial takes a number, such as 0.5; it is at {self.model.dial:g}.")
        else:
            self.console.print(f"The dial is at {self.model.dial:g}.")

    def attack(self, name: str) -> None:
        """Attack both the base and the hardened model with the last prompt, and print what became of each attempt."""
        from mogu.playground.attacking import Assault, attack_sides, offered_attacks  # which takes a second, and many never attack
        from mogu.playground.sides import Side

        if name not in offered_attacks():
            self.console.print(f"/attack takes one of {', '.join(offered_attacks())}.", soft_wrap=True)
            return
        request, tokenizer = str(self._prompt()[-1]["content"]), self.model.tokenizer
        sides = [Side("base", "plain", self.model, tokenizer), Side("hardened", "hardened", self.model, tokenizer)]
        table = Table("attempt", "base model", "hardened")
        labels: list[str] = []
        rows: dict[tuple[int, int], Event] = {}

        def take(event: Event) -> None:
            if event["type"] == "attempts":
                labels.extend(attempt["label"] or name for attempt in event["attempts"])
            else:
                rows[event["index"], event["column"]] = event

        system = self._opening[0]["content"] if self._opening else None
        with self.console.status("attacking …"):
            attack_sides(Assault(name, request, system=system, max_new_tokens=_TOKENS_OF_AN_ATTACK), sides, take)
        for index, label in enumerate(labels):
            table.add_row(label, *(_outcome(rows[index, column]) for column in range(len(sides))))
        self.console.print(table)
        gave_in = [sum(rows[index, column]["broken"] for index in range(len(labels))) for column in range(len(sides))]
        self.console.print(f"The base model gave in to {gave_in[0]} of {len(labels)} attempts, the hardened one to {gave_in[1]}.")

    def save(self, name: str) -> None:
        """Write the conversation as one line of JSON, with the score of each prompt.

        Raises:
            MoguError: there is something of that name, or it cannot be written.
        """
        file = Path(name).expanduser()
        if file.exists():
            raise ConfigError(f"{file} exists", expected="a new file", action="give another name")
        line = {"messages": self._turns, "scores": self._scores, "dial": self.model.dial, "base_model": self.model.mogu_config.base_model}
        write_line_files({file: [json.dumps(line, ensure_ascii=False)]})
        self.console.print(f"Written: {escape(str(file))}", soft_wrap=True)

    def _prompt(self) -> list[dict[str, str]]:
        """The conversation up to the last prompt.

        Raises:
            ConfigError: nothing was said yet.
        """
        last = next((index for index in reversed(range(len(self._turns))) if self._turns[index]["role"] == "user"), None)
        if last is None:
            raise ConfigError("Nothing was said yet", expected="a prompt", action="type one first")
        return self._turns[: last + 1]

    def _print_score(self, turns: list[dict[str, str]]) -> float:
        explanation = explain(self.model, turns)
        flagged = explanation.score >= (0.5 if explanation.threshold is None else explanation.threshold)
        threshold = "" if explanation.threshold is None else f" ({'at or above' if flagged else 'below'} {explanation.threshold:.2f})"
        self.console.print(f"[{'red' if flagged else 'green'}]score {explanation.score:.2f}[/]{threshold}")
        return explanation.score

    def _reply(self, turns: list[dict[str, str]], options: dict[str, Any]) -> str:
        """Stream a reply to the console; returns what later turns read of it."""
        tokenizer, said = self.model.tokenizer, list[int]()

        def on_token(token: StreamedToken) -> None:
            said.append(token.token)
            self.console.print(escape(token.text), end="", soft_wrap=True)

        settings = ReplySettings(self._max_new_tokens)
        stream_replies(self.model, tokenizer, [encode_prompt(tokenizer, turns)], settings, on_token, **options)
        self.console.print()
        # Thoughts are no part of the conversation, neither those in the usual marks nor those before a marker of the user's.
        marker = options.get("answer_marker", self.model.mogu_config.answer_marker)
        if marker is not None:
            said = behind(said, encode_marker(tokenizer, marker))
        return without_thoughts(decode_reply(tokenizer, said)).strip()


def _outcome(event: Event) -> Text:
    words = "gave in" if event["broken"] else _VERDICTS[event["verdict"]]
    text = " ".join(event["text"].split())
    return Text.assemble((words, "bold red" if event["broken"] else "bold"), f"\n{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}")


def _colored(explanation: Explanation) -> Text:
    """The prompt, its tokens colored, and those that count most with their numbers."""
    gate = explanation.kind == "gate"
    most = max(map(abs, explanation.by_token)) or 1.0
    text = Text()
    for token, value, user in zip(explanation.tokens, explanation.by_token, explanation.user, strict=True):
        strength = value / most if gate else 2 * value - 1
        style = "red" if strength > 0.3 else "green" if strength < -0.3 else ""
        text.append(token if user else " [end of prompt]", style)
        if abs(strength) > 0.3:
            text.append(f"({_number(explanation, value)})", "dim")
    return text


def _sentence(explanation: Explanation) -> str:
    if explanation.kind == "routers":
        return f"score {explanation.score:.2f}: the mean share α/(α+β) of the last token over {len(explanation.layers)} layers"
    dial = f", dial {explanation.dial:+.2f}" if explanation.dial else ""
    return (
        f"score {explanation.score:.2f}: logit {explanation.logit:.2f} = tokens {sum(explanation.by_token):+.2f}, "
        f"constant {explanation.bias:+.2f}{dial}"
    )


def _layers(explanation: Explanation) -> str:
    order = sorted(zip(explanation.layers, explanation.by_layer, strict=True), key=lambda pair: -pair[1])[:5]
    return "layers that raised it most: " + ", ".join(f"{layer} ({_number(explanation, value)})" for layer, value in order)


def _number(explanation: Explanation, value: float) -> str:
    return f"{value:+.2f}" if explanation.kind == "gate" else f"{value:.2f}"
