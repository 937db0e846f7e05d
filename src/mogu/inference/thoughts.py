"""The marks that reasoning models put around their thoughts, and a reply without them: one list for everything that reads replies.

Models and servers spell them in many ways, and leave them in many states: whole, only the closing mark because the template wrote the
opening one, never closed because the reply was cut off, or without special tokens. Knows texts; knows nothing of tokens, or of what a
reply says.
"""

from __future__ import annotations

import re

MARKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, MiniMax, Nemotron, Hermes
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<reflection>", "</reflection>"),
    ("<analysis>", "</analysis>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<internal_thoughts>", "</internal_thoughts>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),
    ("<|think|>", "</|think|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma
    ("<unused94>thought", "<unused95>"),  # MedGemma
)
"""Opening and closing marks; case does not matter."""

_ANSWER_MARKS = (
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|begin_of_solution|>",
    "<|end_of_solution|>",
    "[BEGIN FINAL RESPONSE]",
    "[END FINAL RESPONSE]",
    "<answer>",
    "</answer>",
    "<response>",
    "</response>",
    "<output>",
    "</output>",
)
"""Stand around what is said aloud."""

_CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|constrain|>")
"""Of the Harmony format (gpt-oss): every message names its channel, and ``final`` is the one that is read."""

ALL_MARKS = frozenset(mark.lower() for mark in [*(mark for pair in MARKS for mark in pair), *_ANSWER_MARKS, *_CHANNEL_MARKS])
"""Every mark, in lower case."""

_FINAL = "final"
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|start|call)\|>")
# What is left of Harmony's channels where special tokens were dropped: their names, written together with what follows.
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?analysis")
_BARE_FINAL = re.compile(r"assistant\s*final:?")
_BARE_THOUGHT = re.compile(r"\s*(?:assistant)?analysis(?=[A-Z])")
_ANSWER_MARK = re.compile("|".join(map(re.escape, _ANSWER_MARKS)), re.IGNORECASE)
_IS_OPENING = {mark.lower(): is_opening for pair in MARKS for mark, is_opening in zip(pair, (True, False), strict=True)}
_TAG = re.compile(r"[<\[◁][^<>\[\]◁▷\s]{1,24}[>\]▷]")
_AFTER_TAG = "thought"


def without_thoughts(reply: str) -> str:
    """What a reply says aloud: all of it but the thoughts.

    A closing mark without an opening one ends thoughts that began with the reply; an opening one without a closing one begins thoughts
    that go on to the end.
    """
    if "<|channel|>" in reply:
        return _final_channel(reply)
    if _BARE_CHANNEL.match(reply) is not None:
        return _final_bare(reply)
    return _ANSWER_MARK.sub("", _outside_marks(reply))


def _outside_marks(reply: str) -> str:
    said: list[str] = []
    start, thinking = 0, False
    for tag in _TAG.finditer(reply):
        mark, end = tag[0].lower(), tag.end()
        if mark + _AFTER_TAG in _IS_OPENING and reply.startswith(_AFTER_TAG, end):
            mark, end = mark + _AFTER_TAG, end + len(_AFTER_TAG)
        if mark not in _IS_OPENING:
            continue
        if _IS_OPENING[mark]:
            if not thinking:
                said.append(reply[start : tag.start()])
            thinking = True
        else:
            if not thinking:
                said = []  # what came before were thoughts as well
            thinking, start = False, end
    if not thinking:
        said.append(reply[start:])
    return "\n".join(part for part in said if part.strip())


def _final_channel(reply: str) -> str:
    said = [reply[: reply.index("<|channel|>")].removesuffix("<|start|>assistant")]
    for channel in _CHANNEL.finditer(reply):
        if channel[1] == _FINAL:
            end = _END_OF_MESSAGE.search(reply, channel.end())
            said.append(reply[channel.end() : end.start() if end is not None else len(reply)])
    return "\n".join(part for part in said if part.strip())


def _final_bare(reply: str) -> str:
    *_, last = [None, *_BARE_FINAL.finditer(reply)]
    if last is not None:
        return reply[last.end() :]
    # In a sentence that begins with the word, a space follows; here the first word of a thought that never ends.
    return "" if _BARE_THOUGHT.match(reply) is not None else reply
