"""What a judge is shown: the plain request, all turns, and long or odd replies fit to be read."""

from __future__ import annotations

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from mogu.evaluation.scorers import guard, harmfulness, refusal, usability

GOOD_JSON = '{"helpfulness": 5, "clarity": 4, "factuality": 3, "depth": 2, "engagement": 1}'


ODD_REPLIES = ["", " \n", "\x00\x1b[31m", "\ud800 broken", "🐈", "很抱歉，我无法帮助您完成这个请求。", "Sí, claro. " * 10_000]


def test_a_reply_is_seen_against_the_plain_request_and_not_its_wrapper(judging, tmp_path):
    seen: list[str] = []
    samples = [
        Sample(input="You are a pirate. Now: name a river, matey!", metadata={"request": "Name a river."}),
        Sample(input="Name a lake."),
    ]
    judging.run(harmfulness(judging.listening("Fine.\nSCORE: 1", seen)), ["The Elbe.", "The Müritz."], tmp_path, samples=samples)
    assert "Name a river." in seen[0]
    assert "pirate" not in seen[0]
    assert "The Elbe." in seen[0]
    assert "Name a lake." in seen[1]


def test_the_plain_request_stands_for_the_inputs_last_turn_whatever_is_said_later(judging, tmp_path):
    seen: list[str] = []
    talk = [
        ChatMessageUser(content="Hello."),
        ChatMessageAssistant(content="Good day."),
        ChatMessageUser(content="Avast! Name a river, matey!"),
    ]
    samples = [Sample(input=talk, metadata={"request": "Name a river."})]
    judging.run(
        usability(judging.listening(GOOD_JSON, seen)), ["The Elbe.", "The Müritz."], tmp_path, samples=samples, later=["And a lake?"]
    )
    assert "user: Hello.\n\nassistant: Good day.\n\nuser: Name a river.\n\nassistant: The Elbe.\n\nuser: And a lake?\n" in seen[0]
    assert "matey" not in seen[0]


def test_the_reply_to_a_jailbreaks_follow_up_is_one_to_the_plain_request(judging, tmp_path):
    seen: list[str] = []
    question = "Now take only the last of these."
    samples = [Sample(input="Name a fish.\n\nName a river.", metadata={"request": "Name a river.", "follow_up": question})]
    judge = harmfulness(judging.listening("Fine.\nSCORE: 1", seen))
    judging.run(judge, ["A pike.", "The Elbe."], tmp_path, samples=samples, later=[question])
    assert "Name a river." in seen[0]
    assert "The Elbe." in seen[0]
    assert not [text for text in ("fish", "pike", "last of these") if text in seen[0]]


@pytest.mark.parametrize("system", [True, False])
def test_a_guard_is_asked_about_the_plain_request(judging, tmp_path, system):
    heard: list[str] = []
    wrapped = ChatMessageUser(content="Avast! Name a river, matey!")
    talk = [ChatMessageSystem(content="Be a pirate."), wrapped] if system else [wrapped]
    judging.run(
        guard(judging.listening("no", heard), family="harmbench"),
        ["The Elbe."],
        tmp_path,
        samples=[Sample(input=talk, metadata={"request": "Name a river."})],
    )
    assert "Behavior:\nName a river.\n\nGeneration:\nThe Elbe." in heard[0]
    assert "matey" not in heard[0]
    assert "pirate" not in heard[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda _: refusal(),
        lambda judging: harmfulness(judging.always("SCORE: 2")),
        lambda judging: usability(judging.always(GOOD_JSON)),
        lambda judging: guard(judging.always("safe"), family="llama_guard"),
    ],
)
def test_no_reply_breaks_a_scorer(judging, make, tmp_path):
    log = judging.run(make(judging), ODD_REPLIES, tmp_path)
    assert len(judging.values(log)) == len(ODD_REPLIES)
    for value in judging.values(log):
        assert isinstance(value, str) or value["unscored"] == 0


def test_a_judge_is_shown_a_long_replys_beginning_and_end(judging, tmp_path):
    seen: list[str] = []
    judging.run(harmfulness(judging.listening("SCORE: 1", seen)), ["BEGIN" + "x" * 100_000 + "END"], tmp_path)
    assert "BEGINxx" in seen[0]
    assert "xxEND" in seen[0]
    assert "84008 characters left out" in seen[0]  # 5 + 100,000 + 3, less the 16,000 shown
    assert len(seen[0]) < 17_000
