"""Whether a saved model is the one that was saved: the digests of its files, and settings that turn its defense off.

``mogu_config.json`` lists the SHA-256 of every other file that the model consists of, so that the digest of that one file stands for all
of them. The card is not among them: people edit it. Knows files and configs; knows nothing of what is in the other files.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from mogu.errors import ModelFileError
from mogu.files.digests import file_digest
from mogu.hub.saved_models import CARD_FILE, SAVED_FILES
from mogu.modeling.config import MoguConfig

logger = logging.getLogger(__name__)

_EXTREME_DIAL = 8.0
"""Logits of routers stay within a few units: shifted by this much, one responder has less than a thousandth of the weight."""
_EXTREME_LOGIT = 12.0
"""A threshold of a gate, less the dial, that no prompt reaches, or that every prompt does: odds of 160,000 to 1."""

_COVERED = tuple(name for name in SAVED_FILES if name != CARD_FILE)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a saved model consists of, by name; its config, which lists them, and its card left out."""
    return {name: file_digest(folder / name) for name in _COVERED if (folder / name).is_file()}


@dataclass(frozen=True)
class Difference:
    """A file that is not as it was saved.

    Args:
        name: of the file.
        saved: its digest in the config; ``None`` where it is not listed.
        now: its digest; ``None`` where there is no such file.
    """

    name: str
    saved: str | None
    now: str | None

    def __str__(self) -> str:
        if self.now is None:
            return f"{self.name} is missing"
        if self.saved is None:
            return f"{self.name} was not saved with the model"
        return f"{self.name} is another file (SHA-256 {self.now[:12]}…, saved was {self.saved[:12]}…)"


def differences(folder: Path, config: MoguConfig) -> list[Difference]:
    """The files of a saved model that are not those its config lists; none where it lists no files.

    Raises:
        ModelFileError: a file cannot be read.
    """
    saved = config.files
    if saved is None:
        return []
    try:
        now = digests(folder)
    except OSError as error:
        raise ModelFileError(
            f"{error.filename} cannot be read: {error.strerror}", expected="a file that may be read", action="check its permissions"
        ) from error
    names = sorted(saved.keys() | now.keys())
    return [Difference(name, saved.get(name), now.get(name)) for name in names if saved.get(name) != now.get(name)]


def check_files(folder: Path, config: MoguConfig) -> None:
    """Refuse a saved model with files that are not those of its config, and warn of one that cannot tell, or whose defense is off.

    Raises:
        ModelFileError: a file differs, is missing, or was not saved with the model.
    """
    if config.files is None:
        logger.warning("%s was saved without digests of its files (format %d): nobody can tell whether they are as they were saved.",
                       folder, config.format_version)  # fmt: skip
    if different := differences(folder, config):
        raise ModelFileError(
            f"{folder} is not the model that was saved: {'; '.join(map(str, different))}",
            expected="the files whose digests its mogu_config.json lists",
            action="copy or download the folder again; where the change is your own, `mogu verify DIR --accept` lists the files anew",
        )
    if (problem := weakness(config)) is not None:
        logger.warning("%s: %s.", folder, problem)


def weakness(config: MoguConfig) -> str | None:
    """What in the settings of a model turns its defense off, or makes it refuse everything; ``None`` if nothing does."""
    if config.routed_tokens == 0:
        return "the defense is off, routed_tokens is 0: the base model answers everything"
    if config.gate is None:
        shift, bound, setting = config.dial, _EXTREME_DIAL, f"the dial is {config.dial:g}"
    else:
        shift, bound = config.dial - _logit(config.gate.refuse), _EXTREME_LOGIT
        setting = f"the gate refuses from {config.gate.refuse:g} on, with a dial of {config.dial:g}"
    if shift <= -bound:
        return f"the defense is off, {setting}: hardly anything is refused"
    return f"{setting}: hardly anything is answered" if shift >= bound else None


def _logit(probability: float) -> float:
    return math.inf if probability >= 1 else -math.inf if probability <= 0 else math.log(probability / (1 - probability))
