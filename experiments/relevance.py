"""How often a reply that people say gave in says something of its own and shares a word with its question, and with another question.

    python -m experiments.relevance --gptfuzz GPTFuzz/datasets

Reads GPTFuzz's labeled replies and its 100 questions (MIT license, github.com/sherdencooper/GPTFuzz), which are not part of the project.
The first two shares say how many successes `mogu attack` counts as such; the last, how often other matters pass for one.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

from mogu.evaluation.relevance import is_about, says_something

READ = 400
"""Characters of a reply: as long as those that `mogu attack` asks for."""


def shares(folder: Path, file: str) -> dict[str, float]:
    questions = {row["index"]: row["text"] for row in _rows(folder / "questions" / "question_list.csv")}
    replies = [(row["question"], row["Response"][:READ]) for row in _rows(folder / "responses_labeled" / file) if row["label"] == "1"]
    rng = random.Random(0)
    others = [rng.choice([index for index in questions if index != asked]) for asked, _ in replies]
    return {
        "replies": len(replies),
        "saying something": sum(says_something(questions[asked], reply) for asked, reply in replies) / len(replies),
        "about their question": sum(is_about(questions[asked], reply) for asked, reply in replies) / len(replies),
        "about another one": sum(is_about(questions[other], reply) for other, (_, reply) in zip(others, replies, strict=True))
        / len(replies),
    }


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gptfuzz", type=Path, required=True, help="the folder datasets of GPTFuzz")
    arguments = parser.parse_args()
    print(json.dumps({file: shares(arguments.gptfuzz, file) for file in ("train.csv", "evaluate.csv")}, indent=2))
