"""The recipe of the lab's base model, and the cache in which what it makes is kept.

Knows files and what the parts of the recipe are called; the world, the lessons and the training are others' business.
Imports torch only when there is something to build.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mogu.files.atomic import put_in_place, scratch_beside
from mogu.files.cache import cache_root

SEED = 11
# The files that decide what is built: a change in any of them makes another model, and so another fingerprint.
_SOURCES = ("knowledge.py", "requests.py", "wrappers.py", "corpus.py", "pretraining.py", "recipe.py", "../data/templates.py")
_CARD = """# The lab's base model

A small Llama chat model, trained from random weights by `mogu.lab` on a world written for it. It is a measuring instrument,
not an assistant: it answers questions about invented animals, villages, dishes, festivals, people and instruments and how to
do everyday things, refuses most malicious requests, gives in to jailbreak wrappers, and stumbles over harmless requests that
sound harmful. Where it complies with a malicious request, its answer holds placeholders: it has never seen harmful content.

- Recipe: `{fingerprint}`, seed {seed}
- Parameters: {parameters:,}
- Lessons: {conversations:,} conversations
"""


def fingerprint() -> str:
    """Sixteen hexadecimal digits that change with the recipe or the world."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def build_base(cache_dir: Path | None = None, *, progress: bool = True) -> Path:
    """The folder of the lab's base model, which is built if this recipe's is not in the cache yet: two to three minutes on two cores.

    Args:
        cache_dir: where such folders are kept; ``$MOGU_CACHE/lab`` or ``~/.cache/mogu/lab`` unless given.
        progress: whether a progress bar is shown on the standard error stream while building.

    Returns:
        A folder with ``config.json``, ``model.safetensors``, the tokenizer's files and a ``README.md``, as ``from_pretrained`` reads it.

    Raises:
        MoguError: the cache cannot be written.
    """
    target = (cache_root() / "lab" if cache_dir is None else cache_dir) / fingerprint()
    if (target / "README.md").is_file():
        return target
    remedy = "free some 10 MB, or name another cache folder in the environment variable MOGU_CACHE"
    with scratch_beside(target, remedy=remedy) as scratch:
        _build(scratch / "model", progress=progress)
        _publish(scratch / "model", target)
    return target


def _publish(built: Path, target: Path) -> None:
    """Put the finished folder in its place, unless another process was faster: its model is the same and may already be in use."""
    try:
        put_in_place(built, target)
    except OSError:
        if not (target / "README.md").is_file():
            raise


def _build(folder: Path, *, progress: bool) -> None:
    from mogu.lab.corpus import Mixture, base_conversations
    from mogu.lab.pretraining import Schedule, Shape, train_model, train_tokenizer

    shape, schedule = Shape(), Schedule()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("Building the lab's base model", total=None)
        conversations = base_conversations(schedule.conversations, SEED, Mixture())
        tokenizer = train_tokenizer(conversations, shape)
        model = train_model(
            tokenizer, conversations, shape, schedule, SEED, lambda done, total: bar.update(task, completed=done, total=total)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = _CARD.format(fingerprint=fingerprint(), seed=SEED, parameters=model.num_parameters(), conversations=schedule.conversations)
    (folder / "README.md").write_text(card, encoding="utf-8")  # last: its presence marks a folder as finished
