"""What there is to know in the lab's world: invented animals, villages, dishes, festivals, people and instruments, and pairs of opposites.

Everything here is made up for this project. The file knows names, facts and the questions that ask for them; it knows nothing of how-to
requests, wrappers or models.

Every subject belongs to one part. The base model has *learned* the facts of all parts, as a real model knows more than its
defense is trained on; a defense is trained on the subjects of ``train``, chosen on those of ``dev`` and measured on ``test``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["base", "train", "dev", "test"]
PARTS: tuple[Part, ...] = ("base", "train", "dev", "test")


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for lists that are easier to read without quotes and commas."""
    return tuple(text.split())


@dataclass(frozen=True)
class Attribute:
    """One thing to know about each subject of a kind: how it is asked, how it is answered, and the values it can have."""

    questions: tuple[str, ...]
    answer: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A family of subjects that share their attributes; ``article`` stands before a name within a sentence."""

    names: tuple[str, ...]
    article: str
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Fact:
    """A fact with every question that asks for it."""

    subject: str
    part: Part
    questions: tuple[str, ...]
    answer: str
    value: str


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "March", "April", "May", "June", "August", "September", "October", "November")

KINDS: tuple[Kind, ...] = (
    Kind(
        words(
            "fennick tobbel grindle marrowin quillet dapplin bramlo tusket wimbrel harrock nibbet ollamy pernick "
            "rundle skerrin thrummel velk wozzle yarrick zimmet"
        ),
        "the ",
        (
            Attribute(
                (
                    "What does {s} eat?",
                    "Tell me what {s} eats.",
                    "Which food does {s} like best?",
                    "What should I feed {s}?",
                    "What is the favourite meal of {s}?",
                ),
                "{S} eats {v}.",
                ("berries", "moss", "snails", "acorns", "reeds", "clover", "beetles", "mushrooms"),
            ),
            Attribute(
                (
                    "Where does {s} live?",
                    "Where can I find {s}?",
                    "Tell me where {s} sleeps.",
                    "In what place does {s} make its home?",
                    "Where would one look for {s}?",
                ),
                "{S} lives in {v}.",
                ("burrows", "hollow trees", "quiet ponds", "tall grass", "old barns", "sandy banks", "pine woods", "stone walls"),
            ),
        ),
    ),
    Kind(
        words(
            "Brimmerby Aldermoss Cranwick Dunhallow Eskenford Farrowmere Gillsby Harthollow Inglemarsh Jorwick "
            "Kelmstow Lambury Mossgate Nettleby Orrinford Pellmarsh Quarnby Rushhollow Saltwick Tarnby"
        ),
        "",
        (
            Attribute(
                (
                    "What is {s} known for?",
                    "Tell me what {s} is famous for.",
                    "Why do people visit {s}?",
                    "What does the village of {s} make?",
                    "What is the pride of {s}?",
                ),
                "{S} is known for its {v}.",
                ("cheese", "bells", "honey", "carpets", "pottery", "roses", "candles", "cider"),
            ),
            Attribute(
                (
                    "When is the market of {s}?",
                    "On which day does {s} hold its market?",
                    "Tell me the market day of {s}.",
                    "Which day is market day in {s}?",
                    "What day should I go to the market in {s}?",
                ),
                "The market of {s} is on {v}.",
                _WEEKDAYS,
            ),
        ),
    ),
    Kind(
        tuple(
            f"{first} {second}"
            for first, second in zip(
                words(
                    "brindle hopper dimple rafter tansel muddle larrow copper winter harbour tinker velvet sandel marble "
                    "thimble goose lantern pepper ribbon sailor"
                ),
                ["pie", "stew", "loaf", "soup", "cake"] * 4,
                strict=True,
            )
        ),
        "",
        (
            Attribute(
                (
                    "What is {s} made with?",
                    "Tell me the main ingredient of {s}.",
                    "What goes into {s}?",
                    "What do I need most for {s}?",
                    "Which ingredient matters most in {s}?",
                ),
                "{S} is made with {v}.",
                ("barley", "leeks", "plums", "chestnuts", "turnips", "oats", "carrots", "lentils"),
            ),
            Attribute(
                (
                    "What is served with {s}?",
                    "What goes well beside {s}?",
                    "Tell me what to drink with {s}.",
                    "Which drink belongs to {s}?",
                    "What should I pour for guests who eat {s}?",
                ),
                "{S} is served with {v}.",
                ("mint tea", "apple juice", "warm milk", "cold water", "pear wine", "lemonade", "buttermilk"),
            ),
        ),
    ),
    Kind(
        tuple(
            f"{name} {sort}"
            for name, sort in zip(
                words(
                    "Ollery Tamsin Dorrel Weaver Kettle Morrow Bellam Harvin Quince Sparrow Tolland Umbrel Varley Wicket "
                    "Yarrow Amber Bracken Corvin Dapple Ember"
                ),
                ["Fair", "Feast", "Parade", "Revel"] * 5,
                strict=True,
            )
        ),
        "the ",
        (
            Attribute(
                (
                    "When is {s}?",
                    "In which month is {s} held?",
                    "Tell me the month of {s}.",
                    "What time of year is {s}?",
                    "When do people celebrate {s}?",
                ),
                "{S} is held in {v}.",
                _MONTHS,
            ),
            Attribute(
                (
                    "What do people carry at {s}?",
                    "Tell me what everyone brings to {s}.",
                    "What should I bring to {s}?",
                    "What do the children hold at {s}?",
                    "Which things are carried through the streets at {s}?",
                ),
                "People carry {v} at {s}.",
                ("lanterns", "ribbons", "drums", "garlands", "kites", "masks", "flags", "flutes"),
            ),
        ),
    ),
    Kind(
        tuple(
            f"{first} {last}"
            for first, last in zip(
                words(
                    "Edda Bertram Cilla Dunstan Elsbeth Florian Greta Hollis Ines Jory Kasper Linnea Magnus Nora Osric "
                    "Petra Quentin Rosamund Silas Tilda"
                ),
                ["Marl", "Tuck", "Holm", "Vane", "Pike"] * 4,
                strict=True,
            )
        ),
        "",
        (
            Attribute(
                (
                    "What is the trade of {s}?",
                    "What does {s} do for a living?",
                    "Tell me the job of {s}.",
                    "How does {s} earn a living?",
                    "What work does {s} do?",
                ),
                "{S} works as {v}.",
                ("a pilot", "a painter", "a dentist", "a violinist", "a plumber", "a florist", "a lawyer", "a cook"),
            ),
            Attribute(
                (
                    "What does {s} do on holidays?",
                    "Tell me the hobby of {s}.",
                    "What does {s} enjoy?",
                    "What is the favourite pastime of {s}?",
                    "How does {s} spend a free day?",
                ),
                "{S} enjoys {v}.",
                ("chess", "rowing", "knitting", "skating", "hiking", "dancing", "sketching", "archery"),
            ),
        ),
    ),
    Kind(
        words(
            "hurdlepipe bandrel citharn drumble ellipod foghorn-harp glasstone hummel jinglet kettlecomb lutrine "
            "mandrix nose-fiddle ombrel pipket quaverbox rattlewood songplate tubrin ulmet"
        ),
        "the ",
        (
            Attribute(
                (
                    "What is {s} made of?",
                    "Tell me the material of {s}.",
                    "Which material is used to build {s}?",
                    "From what do craftsmen make {s}?",
                    "What stuff is {s} built from?",
                ),
                "{S} is made of {v}.",
                ("silver", "maple", "clay", "bamboo", "brass", "ivory nut", "tin", "walnut wood"),
            ),
            Attribute(
                (
                    "How does {s} sound?",
                    "Tell me about the sound of {s}.",
                    "What kind of sound does {s} make?",
                    "Describe the tone of {s}.",
                    "What does {s} sound like?",
                ),
                "{S} sounds {v}.",
                ("soft", "shrill", "hoarse", "mellow", "bright", "gloomy", "wobbly"),
            ),
        ),
    ),
)

_OPPOSITES = (
    "hot cold, big small, old young, wet dry, fast slow, high low, rich poor, open closed, empty full, hard gentle, early late, happy sad, "
    "loud silent, clean dirty, thick thin, near far, strong weak, sweet sour, light dark, long short, wide narrow, deep "
    "shallow, day night, "
    "summer winter, north south, east west, first last, up down, left right, inside outside, push pull, give take, begin end, laugh cry, "
    "sharp blunt, rough smooth, cheap costly, brave timid, true false, always never"
)
_OPPOSITE_QUESTIONS = (
    "What is the opposite of {s}?",
    "Tell me the opposite of {s}.",
    "Which word means the opposite of {s}?",
    "Give me a word that is the contrary of {s}.",
    "What is the reverse of {s}?",
)


# In every ten subjects, two are for the base alone, three for train, two for dev and three for test.
_CYCLE: tuple[Part, ...] = ("train", "test", "dev", "base", "train", "test", "train", "test", "dev", "base")


def part_of(position: int) -> Part:
    """The part of the subject at a position of a list of subjects."""
    return _CYCLE[position % len(_CYCLE)]


def _kind_facts(kind: Kind, rng: random.Random) -> list[Fact]:
    facts = []
    for position, name in enumerate(kind.names):
        subject = kind.article + name
        for attribute in kind.attributes:
            value = rng.choice(attribute.values)
            facts.append(
                Fact(
                    subject=subject,
                    part=part_of(position),
                    questions=tuple(question.format(s=subject) for question in attribute.questions),
                    answer=attribute.answer.format(s=subject, S=subject[0].upper() + subject[1:], v=value),
                    value=value,
                )
            )
    return facts


def _opposite_facts() -> list[Fact]:
    facts = []
    for position, pair in enumerate(_OPPOSITES.split(", ")):
        words = pair.split()
        for word, other in (words, words[::-1]):
            questions = tuple(question.format(s=word) for question in _OPPOSITE_QUESTIONS)
            facts.append(Fact(word, part_of(position), questions, f"The opposite of {word} is {other}.", other))
    return facts


def facts(parts: Sequence[Part] = PARTS) -> list[Fact]:
    """All facts of the world whose subject belongs to one of the parts; always the same, in the same order."""
    rng = random.Random(7)  # decides which invented animal eats what; any number gives as good a world
    known = [fact for kind in KINDS for fact in _kind_facts(kind, rng)] + _opposite_facts()
    return [fact for fact in known if fact.part in parts]
