"""Just enough English: actions, things and questions, and nothing where the words are not known."""

import pytest

from mogu.data.grammar import asked_thing, asked_way, first_request, gerund, gerund_phrase, is_plural, is_question, noun_phrase


@pytest.mark.parametrize(
    ("verb", "form"),
    [
        *(("write", "writing"), ("run", "running"), ("lie", "lying"), ("see", "seeing"), ("visit", "visiting"), ("set", "setting")),
        *(("hit", "hitting"), ("quit", "quitting"), ("rob", "robbing"), ("kidnap", "kidnapping"), ("drug", "drugging"), ("rig", "rigging")),
        *(("draw", "drawing"), ("fix", "fixing"), ("play", "playing"), ("steal", "stealing"), ("bomb", "bombing"), ("open", "opening")),
        *(("add", "adding"), ("use", "using"), ("try", "trying"), ("dye", "dyeing"), ("poison", "poisoning"), ("output", "outputting")),
        *(
            ("forget", "forgetting"),
            ("trick", "tricking"),
            ("break", "breaking"),
            ("beat", "beating"),
            ("con", "conning"),
            ("pay", "paying"),
        ),
    ],
)
def test_the_ing_form_of_a_verb(verb, form):
    assert gerund(verb) == form


@pytest.mark.parametrize(
    ("instruction", "request_"),
    [
        ("Please name a river.", "name a river."),
        ("Could you please draw a cat?\nIn blue.", "draw a cat?"),
        ("Sort these: 3, 1, 2", "Sort these"),
        ("\n  Add 1 and 2. Then stop.", "Add 1 and 2."),
        ("", ""),
    ],
)
def test_the_first_sentence_without_politeness(instruction, request_):
    assert first_request(instruction) == request_


@pytest.mark.parametrize(
    ("request_", "thing"),
    [
        ("Write me a short poem.", "a short poem"),
        ("List five rivers", "five rivers"),
        ("Explain why it rains", None),
        ("Describe how it works", None),
    ],
)
def test_the_thing_that_is_asked_for(request_, thing):
    assert asked_thing(request_) == thing


def test_ways_are_found_wherever_they_are():
    assert asked_way("Teach my children how to swim") == "how to swim"
    assert asked_way("How can I swim faster?") == "how to swim faster"
    assert asked_way("Name a river") is None


def test_only_things_are_noun_phrases_and_only_known_verbs_become_actions():
    assert noun_phrase("Tips for my garden?") == "tips for your garden"
    assert noun_phrase("Plant my garden") is None
    assert gerund_phrase("Plant my garden") == "planting your garden"
    assert gerund_phrase("Garden my plant") is None


@pytest.mark.parametrize(
    ("thing", "plural"),
    [("a list of rivers", False), ("five rivers", True), ("rivers of Asia", True), ("news about rivers", False), ("a child", False)],
)
def test_plural_things(thing, plural):
    assert is_plural(thing) is plural


def test_questions_open_as_questions():
    assert is_question("What is a river?")
    assert not is_question("How to swim")
    assert not is_question("Name a river")
