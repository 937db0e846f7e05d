"""Score prompts with a hardened model, and show those it finds most malicious first; nothing is generated.

    python examples/score_prompts.py safer-model prompts.txt --threshold 0.5

One prompt a line. A log of scores shows what a model is asked; it is a signal to look at, not a filter to rely on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mogu import MoguModel


def main() -> None:
    """Print each prompt with its score, the highest first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of a saved MoGU model, or a repository of the hub")
    parser.add_argument("prompts", type=Path, help="text file, one prompt a line")
    parser.add_argument("--threshold", type=float, default=0.0, help="show only prompts with at least this score")
    options = parser.parse_args()

    model = MoguModel.from_pretrained(options.model)
    prompts = [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    scored = sorted(zip(model.score(prompts).tolist(), prompts, strict=True), reverse=True)
    for score, prompt in scored:
        if score >= options.threshold:
            print(f"{score:.3f}  {prompt}")


if __name__ == "__main__":
    main()
