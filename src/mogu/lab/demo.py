"""The lab's demo: build its model, harden it, and measure both on prompts that neither was trained on.

Knows the order of the steps and what is measured; knows nothing of how results are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from mogu.data import WRAPPERS, Record, augmented
from mogu.evaluation.side_by_side import SideBySide, compare_replies
from mogu.hub import load_tokenizer
from mogu.lab.measure import MAX_NEW_TOKENS
from mogu.lab.recipe import build_base
from mogu.lab.splits import LAB_RECORDS, borderline_records, choice_records, prompts, records
from mogu.modeling.config import Method
from mogu.training import Recipe, harden
from mogu.training.baselines import Part
from mogu.training.recipe import recipe_from

logger = getLogger(__name__)

# For `mogu.training.train_baselines` on the lab, chosen on the dev split as MoGU's own learning rates are: at the published 2e-3 such a
# small expert refuses a third of the benign requests, and SafeDecoding would look worse than it is.
BASELINE_LEARNING_RATES: dict[Part, float] = {"expert": 2e-4}


# What is set for each method on the lab, beside the rest; chosen on the dev split. Of V2, narrower responders with a larger scaling leave
# parameters for the backbone.
_OF_METHOD: dict[Method, dict[str, dict[str, Any]]] = {
    "gated": {
        "gate": {
            "taps": [1, 2, 3],
            "false_alarms": [0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.16],
            "refusals": ["I am sorry, but I cannot help you with that."],
        },
        "careful": {"learning_rate": 5e-4, "batch_size": 16},  # the pace of SFT in comparisons
    },
    "v1": {
        "glad": {"learning_rate": 3e-4},
        "choice": {
            "checkpoints": [1.0],
            "weight_penalties": [0.02, 0.05],
            "unwill_offsets": [-4.5, -4.25, -4.0, -3.75, -3.5, -3.25, -3.0, -2.75, -2.5, -2.25, -2.0, -1.75, -1.5, 0.0],
        },
    },
    "v2": {
        "mogu": {"rank": 2, "lora_alpha": 16},
        "probe": {"top": [2, 3]},
        "backbone": {"modules": ["q_proj", "v_proj"], "learning_rate": 2e-4},
        "glad": {"learning_rate": 3e-4},
        "choice": {
            "checkpoints": [1.0],
            "weight_penalties": [0.05],
            "unwill_offsets": [-5.0, -4.5, -4.0, -3.5, -3.0, -2.75, -2.5, -2.25, -2.0, -1.75, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0],
        },
    },
}


def lab_recipe(base_folder: Path, output: Path, *, seed: int = 0, method: Method = "v1") -> Recipe:
    """Build the recipe that hardens the lab's model: the published settings, except where its size requires others.

    A model of a million parameters needs larger learning rates than one of seven billion, above all to learn to refuse everything: at
    3e-4 its unwill responder still answers. The first layer is not routed: it attends to single words, and a router there refuses at the
    sound of a verb. A small ``λ`` leaves the routers of V1 and V2 room to separate requests that no record separates. Their operating
    point is set on the unwill routers alone: the dial would turn glad up as it turns unwill down, and glad answers jailbreaks. All of
    this was chosen on the dev split. Which candidate is used is decided on :func:`~mogu.lab.splits.choice_records`: the one that refuses
    most with almost no loss in benign answers.
    """
    tree: dict[str, Any] = {
        "method": method,
        "model": {"base": str(base_folder)},
        "data": {"train": LAB_RECORDS},
        "unwill": {"learning_rate": 2e-3},
        "mogu": {"layers": [1, 2, 3]},
        "choice": {"max_benign_loss": 0.02, "batch_size": 64},
        "run": {"output": output, "seed": seed, "max_length": 256, "micro_batch_size": 16},
    }
    for section, settings in _OF_METHOD[method].items():
        tree[section] = tree.get(section, {}) | settings
    return recipe_from(tree, source="of the lab")


def lab_data(*, borderline: int = 0) -> dict[str, Sequence[Record]]:
    """Draw the records that the lab's model is hardened with, and those that its settings are chosen with.

    Two thirds of the training prompts are in wrappers, some in two: the split's own, and those of `mogu data build --augment`. The more
    kinds of wrappers a router has seen, the better it sees through new ones.

    Args:
        borderline: how many borderline records there are beside them; as the lab was made, there are none.
    """
    train = [*augmented(records("train", wrapped=0.35), 0.5, WRAPPERS, seed=0), *borderline_records(borderline)]
    return {"train": train, "dev": choice_records()}


def run_demo(output: Path) -> SideBySide:
    """Build, harden and measure. A base model or stage that an earlier run finished is reused.

    Args:
        output: folder of the hardened model.

    Raises:
        MoguError: the output exists and is not ours, or cannot be written.
    """
    logger.info("1. The base model: a small chat model, trained from nothing on the lab's world.")
    base_folder = build_base()
    logger.info("2. Hardening: two responders, then the router between them.")
    model = harden(lab_recipe(base_folder, output), records=lab_data(), resume=True)
    assert model is not None  # all stages were run
    logger.info("3. Measuring both on unseen subjects and unseen wrappers.")
    test = prompts("test")
    timed = [prompt for prompt in test if prompt.category == "benign"][:20]
    tokenizer = load_tokenizer(str(base_folder))
    return compare_replies(model, tokenizer, test, timed=timed, max_new_tokens=MAX_NEW_TOKENS, batch_size=32)
