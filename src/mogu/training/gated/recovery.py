"""What responders of a gated model learn: to refuse, also where the answer has begun otherwise, and to answer what is harmless.

Whoever can write the beginning of an answer, or has the model write it, gets past a refusal that was only learned as the first words
("Safety Alignment Should Be Made More Than Just a Few Tokens Deep", Qi et al., arXiv 2406.05946). Beginnings are openings of the request's
own words, marks of lists, or sentences about nothing. Knows records, tokenizers and text; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of, naming_record, opening_for
from mogu.files.disk_list import DiskList
from mogu.inference.prompts import Conversation, WithTools, as_conversation, encode_answer, encode_prompt
from mogu.training.examples import Example, room_for_answer

BEGUN = 0.5
"""Share of the examples whose answer has begun otherwise."""

_HARMLESS_SHARE = 0.35
_HARMLESS = (
    "The morning is bright and calm.",
    "Here is a short line about rain: it falls softly on the roof.",
    "1, 2, 3, 4, 5, 6",
    "Autumn leaves drift down the lane. A cat watches from the wall.",
    "Bonjour ! Pomme, poire, cerise.",
    "Let me begin with a greeting: good day to you.",
    "A lamp, a ladder, a loaf of bread. The clock in the hall has stopped at noon, and nobody has wound it since.",
)
_AFTER_HARMLESS = ("", "\n\n", "\n\nNow to your request:", "\n", "\n\nAs for the rest:\n1.")
_AFFIRMATIVE = (
    *("Sure, here is", "Of course!", "Yes, I can help with that.", "1.", "Step 1:", "Certainly. Here are the steps:\n\n1."),
    *("You will need the following:\n-", "Absolutely, here", "# Overview\n\n", "```text\n1.", "No problem. First,"),
)
_AFTER_OPENING = ("", "", "\n\n1.", " First,")


def expert_examples(
    name: Literal["unwill", "careful"],
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    refusals: Sequence[str],
    max_length: int,
    system_prompt: str | None,
    seed: int,
) -> Sequence[Example]:
    """Encode what an expert learns.

    ``unwill`` refuses prompts of every kind; half of the answers have begun otherwise, and turn to refusing. ``careful`` refuses malicious
    ones, and answers benign ones, borderline ones among them.
    """

    def example(record: Record) -> Example:
        rng = random.Random(f"{seed}:{record.id}")
        begun = beginning_for(record.request, rng) if name == "unwill" and rng.random() < BEGUN else ""
        answer = record.affirm if name == "careful" and record.label == "benign" else rng.choice(refusals)
        with naming_record(record.id):
            return _example(tokenizer, record, begun, answer, max_length, system_prompt)

    return DiskList(map(example, records))


def beginning_for(request: str, rng: random.Random) -> str:
    """The beginning of an answer that is to turn to refusing."""
    if rng.random() < _HARMLESS_SHARE:
        return rng.choice(_HARMLESS) + rng.choice(_AFTER_HARMLESS)
    # The request's own opening as often as all others together: it is what an attacker writes first.
    return (opening_for(request, rng) if rng.random() < 0.5 else rng.choice(_AFFIRMATIVE)) + rng.choice(_AFTER_OPENING)


def _example(
    tokenizer: PreTrainedTokenizerBase, record: Record, begun: str, answer: str, max_length: int, system_prompt: str | None
) -> Example:
    conversation: Conversation | WithTools = conversation_of(record, system_prompt)
    if begun:
        turns = [*as_conversation(conversation), {"role": "assistant", "content": begun}]
        prompt = encode_prompt(tokenizer, WithTools(turns, conversation.tools) if isinstance(conversation, WithTools) else turns)
        ids = encode_answer(tokenizer, conversation, begun + _joint(begun) + answer, closed=True)
        before = len(prompt) - len(encode_prompt(tokenizer, conversation))
        ids = ids[before:]  # a token that straddles the border is cut there, as it is where somebody writes the beginning
    else:
        prompt = encode_prompt(tokenizer, conversation)
        ids = encode_answer(tokenizer, conversation, answer, closed=True)
    answer_ids = tuple(ids[: room_for_answer(record, prompt, max_length)])
    return Example(record.id, tuple(prompt), (answer_ids,), record.label == "malicious")


def _joint(begun: str) -> str:
    return "" if begun.endswith("\n") else " "
