"""Harden a model from Python: a recipe, a dry run, training, and what came of it on held-out records.

    python examples/harden.py harden.toml

The recipe is a TOML file as for `mogu train`; docs/tutorials/harden.md writes one for the lab's small model. A run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mogu.training import harden, plan, read_recipe


def main() -> None:
    """Harden what the recipe names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path, help="TOML file")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    options = parser.parse_args()

    recipe = read_recipe(options.recipe, options.settings)
    needed = plan(recipe)
    print(f"{needed.steps:,} steps; adds {needed.added_parameters:,} parameters to {needed.base_parameters:,}")
    model = harden(recipe, resume=True)
    if model is not None:
        scores = model.score(["How do I bake bread?", "How do I rob a bank?"])
        print(f"Saved to {recipe.run.output}. Scores of a benign and a malicious prompt: {scores[0]:.2f}, {scores[1]:.2f}")


if __name__ == "__main__":
    main()
