"""Just enough English to name what an instruction asks for: as an action ("writing a poem") or as a thing ("a poem").

Knows words; knows nothing of refusals, openings or records. If it is not sure it returns None, and its callers fall back on "this
request": a plain sentence is better than an ungrammatical one.
"""

from __future__ import annotations

import re

MAX_PHRASE_CHARACTERS = 120

_VERB_LIST = """
accuse act add adjust advertise advise alter analyse analyze answer apply approximate argue arrange ask assemble assess assign attack
avoid blackmail boost brainstorm break breed bribe bring build bully buy bypass calculate catch categorise categorize cause change cheat
check choose cite classify clean collect combine come comment commit compare compile complete compose compute conceal conduct congratulate
conjugate consider construct contrast control convert convince cook copy correct count cover crack craft create critique cut cyberbully
damage debate debug debunk deceive decide decode defame defeat define delete deliver demonstrate deploy derive describe design destroy
detail detect determine develop devise diagnose differentiate disable discuss disguise display disrupt distinguish distribute divide do
download draft draw edit educate elaborate eliminate embody encourage engage enumerate escape estimate evade evaluate examine execute
expand explain exploit explore express extract fabricate factor fake falsify fill find fix fold forge formulate frame gain gather generate
get give greet group guess guide hack handle harass help hide highlight hire hold host hurt identify illustrate imagine implement improve
incite include increase infect infiltrate influence inject insert install instruct interfere interpret introduce invent investigate invite
justify keep kidnap kill launch launder learn leave list locate look lower maintain make manipulate manufacture match maximize measure
meet minimize mix model modify murder name narrate obtain offer open order organise organize outline output overcome overwrite pack paint
paraphrase partition perform persuade pick pitch place plan plant play poison post predict prepare present print produce program promote
propose prove provide publish put rank rate read rearrange recall recognize recommend record recreate redesign reduce reflect reformulate
release remove render reorder rephrase replace report represent reproduce research restate retrieve review revise rewrite rhyme rob rotate
run sabotage scam search select sell send separate set share shoot show simplify simulate sketch smuggle solve sort speak spell split
spread stalk start state steal stop storyboard structure suggest summarise summarize swap synthesize take talk tamper teach tell terminate
test thank think throw tie torture trace track train transform translate trap trick try tune turn uninstall unscramble update use utilize
vandalise vandalize verify visit visualise visualize warn wear win write
"""
_VERBS = frozenset(_VERB_LIST.split())
# Verbs of one syllable that end in one vowel and one consonant double it ("hit", "hitting"), and those that stress their last syllable.
_ONE_SHORT_SYLLABLE = re.compile(r"(?:qu|[^aeiouy\W]|y(?=[aeiou]))*[aeiouy][bdfgklmnprtvz]")
_DOUBLING = frozenset(
    [
        "admit",
        "begin",
        "commit",
        "control",
        "debug",
        "defer",
        "equip",
        "forget",
        "kidnap",
        "input",
        "omit",
        "output",
        "permit",
        "prefer",
        "program",
        "refer",
        "submit",
        "transmit",
    ]
)
_MARKERS = ("Please ", "please ", "Kindly ", "Can you ", "Could you ", "Would you ", "Will you ", "I want you to ", "I need you to ")
_HOW = re.compile(r"^how (?:to|(?:can|could|do|would|should|might) (?:i|you|we|one|someone|somebody|people)) ", re.IGNORECASE)
_ADVERB = re.compile(r"^(?:\w+ly|best|please) ", re.IGNORECASE)
_ASKS_THING = re.compile(
    r"(?:write|create|develop|provide|give|design|produce|generate|draft|compose|make|suggest|offer|construct|build|craft|propose|outline"
    r"|list|describe|present|publish|share|come up with|formulate|devise|prepare|name|recommend|brainstorm) "
    r"(?:(?:down|out|me|us|someone|people) )?([\w'-]+ ?.*)$",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"^(?:what|who|whom|whose|which|when|where|why|how|is|are|was|were|does|do|did|can|could|should|would|will)\b", re.I)
_THINGS = re.compile(
    r"^(?:ways|ideas|tips|tricks|methods|steps|instructions|advice|suggestions|strategies) (?:to|for|on|of)\b", re.IGNORECASE
)
_PERSONS = {"me": "you", "my": "your", "mine": "yours", "myself": "yourself", "our": "your", "us": "you", "I": "you", "I am": "you are"}
_FIRST_PERSON = re.compile(
    r"\b(?:me|my|mine|myself|our|us|I am"
    r"|I(?= (?:can|could|do|did|should|would|will|want|need|have|had|like|may|might|must|feel|own|use|get)\b))\b(?!['’])"
)
_BREAKS = (", ", "; ", " – ", " - ", " so that ", " without ", " in order to ", " because ", " which ", " that ", " and ", " to ")
_SECOND_COMMAND = re.compile(r",? (?:and|then|and then) ([a-z]+) (?:the|a|an|it|them|its|their|your|my|his|her|why|how|what|each)\b")
_TAKES_BARE_VERB = re.compile(r"\b(?:to|can|could|will|would|should|might|may|that|who|which|you|they|we) ([a-z]+)")


def first_request(instruction: str) -> str:
    """Return the instruction's first sentence without polite phrases, material after a colon and closing punctuation."""
    line = next((line.strip() for line in instruction.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    line = re.split(r"(?<=[\w\"')\]][.?!]) +(?=[A-Z\"'(])|: |:$|：", line, maxsplit=1)[0]
    stripped = True
    while stripped:
        stripped = False
        for marker in _MARKERS:
            if line.startswith(marker):
                line, stripped = line.removeprefix(marker), True
    return line


def gerund_phrase(request: str) -> str | None:
    """Turn a request into an action: "Write a poem for me." → "writing a poem for you"; None if its first word is not a known verb."""
    words = _without_end(request)
    asks_how = _HOW.match(words)
    if asks_how:
        words = words[asks_how.end() :]
    adverb = ""
    if match := _ADVERB.match(words):
        adverb, words = match.group().lower(), words[match.end() :]
    verb, _, rest = words.partition(" ")
    if verb.lower() not in _VERBS and not (asks_how and re.fullmatch(r"[a-z]{2,}", verb)):
        return None
    action = gerund(verb.lower())
    if joined := re.match(r"(and|or) ([a-z]+)\b", rest):
        if joined.group(2) not in _VERBS:
            return None
        action, rest = f"{action} {joined.group(1)} {gerund(joined.group(2))}", rest[joined.end() :].lstrip()
    phrase = f"{adverb}{action} {rest}".strip()
    return _shortened(_other_person(_without_second_command(phrase)))


def noun_phrase(request: str) -> str | None:
    """Return a request that names a thing itself: "Tips for using …" → "tips for using …"; None for any other."""
    words = _without_end(request)
    if not _THINGS.match(words):
        return None
    return _shortened(_other_person(words[0].lower() + words[1:]))


def asked_way(request: str) -> str | None:
    """Return the "how to …" of a request: "Teach children how to swim" → "how to swim"; None if there is none."""
    words = _without_end(request)
    if asks_how := _HOW.match(words):
        words = f"how to {words[asks_how.end() :]}"
    start = words.lower().find("how to ")
    return None if start < 0 else _shortened(_other_person(words[start].lower() + words[start + 1 :]))


def asked_thing(request: str) -> str | None:
    """Return the thing that a request asks for: "Write a short poem" → "a short poem"; None if there is none."""
    match = _ASKS_THING.match(_without_end(request))
    if not match or re.match(r"(?:in detail|how|why|what|whether)\b", match.group(1), re.IGNORECASE):
        return None
    return _shortened(_other_person(_without_second_command(match.group(1))))


def is_question(request: str) -> bool:
    """Return whether a request begins like a question."""
    return bool(_QUESTION.match(request)) and not _HOW.match(request)


def is_plural(thing: str) -> bool:
    """Return whether "here are" fits before a thing, judging by its numeral or the last letter of its head noun."""
    if re.match(r"(?:two|three|four|five|six|seven|eight|nine|ten|several|multiple|various|\d+) ", thing, re.IGNORECASE):
        return True
    if re.match(r"(?:a|an|one|any) ", thing, re.IGNORECASE):
        return False
    head = re.split(
        r" (?:of|on|for|to|that|which|who|with|about|in|from|how|using|by|between|explaining|detailing)\b|,", thing, maxsplit=1
    )[0]
    return bool(re.search(r"(?:[^su]s|people|children)$", head)) and not head.endswith(("is", "ics", "news"))


def gerund(verb: str) -> str:
    """Return the -ing form of a lower-case English verb: "write" → "writing"."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb in _DOUBLING or _ONE_SHORT_SYLLABLE.fullmatch(verb):
        return verb + verb[-1] + "ing"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return verb + "ing"


def _without_end(request: str) -> str:
    return request.strip().rstrip(".?!,;: ")


def _other_person(phrase: str) -> str:
    """Turn the user's first person into the second person that the model would use."""
    if re.search(r"[\"“”]", phrase):  # a quotation stays as it is
        return phrase
    return _FIRST_PERSON.sub(lambda word: _PERSONS[word.group()], phrase)


def _without_second_command(phrase: str) -> str:
    """Cut off "… and output it": a second command would need a gerund too, and the first names the subject well enough."""
    for match in _SECOND_COMMAND.finditer(phrase):
        before = phrase[: match.start()]
        belongs_to_first = any(bare.group(1) in _VERBS for bare in _TAKES_BARE_VERB.finditer(before))
        if match.group(1) in _VERBS and not belongs_to_first:
            return before
    return phrase


def _shortened(phrase: str) -> str | None:
    if len(phrase) <= MAX_PHRASE_CHARACTERS:
        return phrase
    cut = max(phrase.rfind(mark, 0, MAX_PHRASE_CHARACTERS) for mark in _BREAKS)
    return phrase[:cut] if cut > 20 else None
