"""Fit the weights of the refusal classifier and report how well it agrees with people.

    python -m experiments.refusals ../shared/data --gptfuzz GPTFuzz/datasets --write

Reads XSTest's labeled completions (two files, one for each of two models), published refusals, human-written answers, and the labeled
replies to jailbreak prompts of GPTFuzz (MIT license, github.com/sherdencooper/GPTFuzz), which are not part of the project. A quarter of
the latter is set aside for the test: those in ``gptfuzz_labelled_replies.csv``. Prints how well weights fitted on one of XSTest's files
agree with the labels of the other, both ways, and what the weights fitted on everything say of each file; ``--write`` puts these into
``src/mogu/refusals/weights.json``. The signals are written by hand: cross-validation covers the weights, not the phrases.

Labels are people's: of GPTFuzz, 1 where the model gave in (its authors know some to be wrong); of XSTest, full compliance against full and
partial refusal. Published refusals are refusals, and human-written answers are not, but for two that decline.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from mogu.files.json_files import write_json
from mogu.refusals.classifier import WEIGHTS_FILE, Voice, Weights, voices_of, weights
from mogu.refusals.lexicon import terms
from mogu.refusals.published_strings import has_refusal_string
from mogu.refusals.signals import SIGNALS

XSTEST = {"Mistral": "completions_mistralinstruct.csv", "Llama-2": "completions_llama2orig.csv"}
GPTFUZZ_QUARTER = "gptfuzz_labelled_replies.csv"
WRITTEN = Path(__file__).with_name("refusal_replies.jsonl")
QUESTIONS = 20
"""A term counts if replies to at least so many of GPTFuzz's 100 questions have it: it then belongs to no topic."""
COMMON = 0.6
"""A term in more than this share of the replies does not count: it says how long a reply is."""

_REGULARIZATION = 1.0  # scikit-learn's C: the smaller, the smaller the weights
_TERMS = 3.6  # how much freer the weights of terms are than those of signals
_LENGTH = 1 / 8
_GPTFUZZ, _GAVE_IN, _XSTEST, _WRITTEN = 1.0, 1.7, 3.0, 5.0
"""Weights of replies: of GPTFuzz's, how much more of those that gave in among them, of XSTest's, and of those written for this."""
_ROUNDS = 5
_SHORTEST = 20  # characters; the published refusals include a few that were cut off in their first words
_SEED_REFUSALS = ("Sorry, the task involves", "You are requesting personal information")


@dataclass(frozen=True)
class LabeledReply:
    """A reply and its human label: 1 full compliance, 2 full refusal, 3 partial refusal.

    Args:
        prompt: what was asked for.
        reply: the reply.
        label: as above.
        weight: how much it counts when weights are fitted.
    """

    prompt: str
    reply: str
    label: int
    weight: float = 1.0

    @property
    def refused(self) -> bool:
        return self.label != 1


def read_xstest(path: Path) -> list[LabeledReply]:
    with path.open(encoding="utf-8", newline="") as file:
        return [LabeledReply(row["prompt"], row["completion"], int(row["final_label"][0]), _XSTEST) for row in csv.DictReader(file)]


def read_published_refusals(folder: Path) -> list[LabeledReply]:
    """Read published refusals without those cut off at once, and without articles and corrections, which are not refusals in form."""
    refusals = []
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            prompt, reply = re.split(r"\[/INST\]|ASSISTANT:|Assistant:", entry["text"], maxsplit=1)
            prompt = re.sub(r"^(?:\[INST\]|USER:|User:)", "", prompt).strip()
            reply = re.sub(r"</s>|<\|endoftext\|>", "", reply)
            if len(reply) > _SHORTEST and "moon landing" not in prompt and "Title:" not in reply:
                refusals.append(LabeledReply(prompt, reply, 2))
    return refusals


def read_seed_tasks(path: Path) -> list[LabeledReply]:
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [LabeledReply(task["instruction"], task["output"], 2 if task["output"].startswith(_SEED_REFUSALS) else 1) for task in tasks]


def read_written() -> list[LabeledReply]:
    """Read replies that were written for this: short ones, turns, limits and texts that decline, of which the public files have few."""
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()
    return [LabeledReply(row["prompt"], row["reply"], row["label"], _WRITTEN) for row in map(json.loads, lines)]


def read_gptfuzz(path: Path, questions: Path | None = None) -> list[LabeledReply]:
    """Read labeled replies of GPTFuzz.

    Args:
        path: one of its files of labeled replies.
        questions: its list of questions; without it prompts are empty.
    """
    asked = {row["index"]: row["text"] for row in _rows(questions)} if questions is not None else {}
    weight = {"0": _GPTFUZZ, "1": _GPTFUZZ * _GAVE_IN}
    return [
        LabeledReply(asked.get(row["question"], ""), row["Response"], 1 if row["label"] == "1" else 2, weight[row["label"]])
        for row in _rows(path)
    ]


def _rows(path: Path) -> Iterable[dict[str, str]]:
    limit = csv.field_size_limit(2**30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    finally:
        csv.field_size_limit(limit)


def without(replies: Sequence[LabeledReply], others: Sequence[LabeledReply]) -> list[LabeledReply]:
    """Those replies that are not among the others, each once."""
    seen = {_plain(other.reply) for other in others}
    return [reply for reply in replies if not (_plain(reply.reply) in seen or seen.add(_plain(reply.reply)))]  # type: ignore[func-returns-value]


def _plain(text: str) -> str:
    return " ".join(text.split())


def agreement(of: Weights, replies: Sequence[LabeledReply]) -> float:
    """The share of replies that weights judge as people do: as compliance, or as refusal."""
    return float(np.mean([(_log_odds(of, reply) > 0) == reply.refused for reply in replies]))


def _log_odds(of: Weights, reply: LabeledReply) -> float:
    return min((voice.log_odds(of) for voice in voices_of(reply.prompt, reply.reply, of)), default=1.0)


def topicless_terms(replies: Sequence[LabeledReply]) -> list[str]:
    """Terms that replies to at least :data:`QUESTIONS` different prompts have, and at most a share :data:`COMMON` of all replies."""
    prompts: dict[str, set[str]] = defaultdict(set)
    occurrences: Counter[str] = Counter()
    none = Weights(0.0, 0.0, {}, {})
    for reply in replies:
        sentences = [sentence for voice in voices_of(reply.prompt, reply.reply, none) for sentence in voice.reply.sentences]
        found = {term for sentence in sentences for term in terms(sentence)}
        occurrences.update(found)
        for term in found:
            prompts[term].add(reply.prompt)
    most = COMMON * len(replies)
    return sorted(term for term, asked in prompts.items() if len(asked) >= QUESTIONS and occurrences[term] <= most)


def fit(replies: Sequence[LabeledReply], vocabulary: Sequence[str]) -> Weights:
    """Fit a logistic regression to the voice of each reply that refuses least, which the weights themselves tell, so in rounds.

    Args:
        replies: labeled replies.
        vocabulary: the terms that count.
    """
    unit = Weights(0.0, 0.0, {}, dict.fromkeys(vocabulary, 0.0))
    heard = [voices_of(reply.prompt, reply.reply, unit) for reply in replies]
    kept = [index for index, voices in enumerate(heard) if voices]
    labels, importance = [replies[index].refused for index in kept], [replies[index].weight for index in kept]
    fitted = Weights(0.0, 0.0, {"declines": 1.0, "not_right": 1.0, "begins": -1.0, "answers": -1.0}, unit.terms)
    for _ in range(_ROUNDS):
        chosen = [min(heard[index], key=lambda voice: voice.log_odds(fitted)) for index in kept]
        model = LogisticRegression(C=_REGULARIZATION, max_iter=5000)
        model.fit(_matrix(chosen, vocabulary), labels, sample_weight=importance)
        fitted = _as_weights(model, vocabulary)
    return fitted


def _matrix(voices: Sequence[Voice], vocabulary: Sequence[str]) -> Any:
    column = {term: index for index, term in enumerate(vocabulary)}
    dense = [[*(float(name in voice.signals) for name in SIGNALS), voice.length * _LENGTH] for voice in voices]
    entries = [(row, column[term], _TERMS * share) for row, voice in enumerate(voices) for term, share in voice.shares.items()]
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    sparse = csr_matrix((values, (rows, columns)), shape=(len(voices), len(vocabulary)))
    return hstack([csr_matrix(np.array(dense)), sparse]).tocsr()


def _as_weights(model: LogisticRegression, vocabulary: Sequence[str]) -> Weights:
    *by_signal, length = model.coef_[0][: len(SIGNALS) + 1].tolist()
    by_term = (model.coef_[0][len(SIGNALS) + 1 :] * _TERMS).tolist()
    return Weights(
        constant=float(model.intercept_[0]),
        length=length * _LENGTH,
        signals=dict(zip(SIGNALS, by_signal, strict=True)),
        terms=dict(zip(vocabulary, by_term, strict=True)),
    )


def rounded(of: Weights) -> Weights:
    """The weights with two decimals."""
    return Weights(
        round(of.constant, 2),
        round(of.length, 3),
        {name: round(weight, 2) for name, weight in of.signals.items()},
        {term: round(weight, 2) for term, weight in of.terms.items()},
    )


def main() -> None:
    """Print agreement, and write the weights if asked to."""
    parser = argparse.ArgumentParser(description="Fit the weights of the refusal classifier.")
    parser.add_argument("data", type=Path, help="folder of the public data sets")
    parser.add_argument("--gptfuzz", type=Path, required=True, help="the folder `datasets` of GPTFuzz's repository")
    parser.add_argument("--write", action="store_true", help="write the weights into the package")
    arguments = parser.parse_args()
    folder, questions = arguments.data, arguments.gptfuzz / "questions" / "question_list.csv"
    quarter = read_gptfuzz(folder / GPTFUZZ_QUARTER, questions)
    training = arguments.gptfuzz / "responses_labeled" / "train.csv"
    jailbreaks = without(read_gptfuzz(training, questions), quarter)
    files = {name: read_xstest(folder / "xstest" / file) for name, file in XSTEST.items()}
    others = jailbreaks + read_written() + read_published_refusals(folder / "refusals") + read_seed_tasks(folder / "seed_tasks.jsonl")
    vocabulary = topicless_terms(jailbreaks)
    for fitted_on in files:
        crossed = fit(files[fitted_on] + others, vocabulary)
        for tested_on in files.keys() - {fitted_on}:
            print(f"fitted on {fitted_on}, tested on {tested_on}: {agreement(crossed, files[tested_on]):.1%}")
    everything = rounded(fit([reply for file in files.values() for reply in file] + others, vocabulary))
    evaluation = read_gptfuzz(arguments.gptfuzz / "responses_labeled" / "evaluate.csv", questions)
    tested = {
        **files,
        "written for this": read_written(),
        "GPTFuzz, the quarter set aside": quarter,
        "GPTFuzz, its evaluation file": evaluation,
        "GPTFuzz, what its training file lacks": without(evaluation, read_gptfuzz(training)),
    }
    for name, replies in tested.items():
        gave_in = [reply for reply in replies if not reply.refused]
        strings = np.mean([has_refusal_string(one.reply) == one.refused for one in replies])
        agreed, called = agreement(everything, replies), 1 - agreement(everything, gave_in)
        print(f"{name}, {len(replies)}: {agreed:.1%}; strings {strings:.1%}; compliance called a refusal {called:.1%}")
    for name, weight in sorted(everything.signals.items(), key=lambda item: item[1]):
        print(f"    {name}: {weight}")
    if arguments.write:
        target = Path(__file__).parents[1] / "src" / "mogu" / "refusals" / WEIGHTS_FILE
        made = "python -m experiments.refusals ../shared/data --gptfuzz GPTFuzz/datasets --write"
        write_json(target, {"made": made, "weights": asdict(everything)})
        weights.cache_clear()


if __name__ == "__main__":
    main()
