"""The working folder of a training run: what is begun, what is finished, what was measured, and with which settings.

Knows files; knows nothing of models. Every file here appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mogu.errors import ConfigError
from mogu.files.atomic import check_replaceable, discard
from mogu.files.json_files import read_json, write_json
from mogu.training.training_state import INCOMING, last_checkpoint, step_of

MARKER = "mogu_training.json"
BEGUN, DONE, MEASURED = "begun.json", "done.json", "measured.json"


class Workspace:
    """The working folder, which holds a folder for each part: a stage, or a candidate of the router stage.

    Args:
        folder: made if it is missing.
        what: the command whose working folder it is, for whoever finds it.
        go_on: what a user does to go on with a run that was stopped, for messages.
        anew: what a user does to train anew.

    Raises:
        MoguError: the folder exists and is not ours, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        what: str = "mogu train",
        go_on: str = "pass --resume to go on from there, or --restart to throw it away",
        anew: str = "choose another run.work, or pass --restart to throw it away and train anew",
    ) -> None:
        check_replaceable(folder, marker=MARKER)
        self.folder, self.go_on, self.anew = folder, go_on, anew
        write_json(folder / MARKER, {"what": f"working folder of `{what}`; may be deleted when the model is saved"})

    def begin(self, part: str, made_with: str, *, resume: bool) -> Path:
        """Start a part, or go on with it; returns its folder, in which checkpoints go on from the last one.

        Args:
            part: the part.
            made_with: fingerprint of its settings and data.
            resume: whether to go on from the checkpoint that an earlier run left.

        Raises:
            ConfigError: an earlier run left a checkpoint, and it is of other settings, or ``resume`` is not asked for.
        """
        folder = self.folder / part
        checkpoint = last_checkpoint(folder)
        if checkpoint is None:
            discard(folder)
            write_json(folder / BEGUN, {"fingerprint": made_with})
            return folder
        begun = read_json(folder / BEGUN)
        if begun is None or begun.get("fingerprint") != made_with:
            raise self._other_settings(folder)
        if not resume:
            raise ConfigError(
                f"{folder} holds a training run that stopped at step {step_of(checkpoint)}",
                expected="your word on what becomes of it",
                action=self.go_on,
            )
        return folder

    def finished(self, part: str, wanted: str) -> dict[str, Any] | None:
        """What a finished part recorded, or ``None`` where it is not finished.

        Args:
            part: the part.
            wanted: fingerprint of its settings and data now.

        Raises:
            ConfigError: it was finished with other settings or data.
        """
        record = read_json(self.folder / part / DONE)
        if record is not None and record.get("fingerprint") != wanted:
            raise self._other_settings(self.folder / part)
        return record

    def finish(self, part: str, made_with: str, **record: Any) -> dict[str, Any]:
        """Record that a part is finished, and drop its checkpoints, which are large and of no more use."""
        folder = self.folder / part
        whole = {"fingerprint": made_with, **record}
        write_json(folder / DONE, whole)
        for path in [*folder.glob("checkpoint-*"), folder / INCOMING]:
            discard(path)
        return whole

    def measured(self, part: str, wanted: str) -> dict[str, Any] | None:
        """What was measured of a part; ``None`` if nothing was, or on other records or in another way."""
        record = read_json(self.folder / part / MEASURED)
        return record if record is not None and record.get("fingerprint") == wanted else None

    def measure(self, part: str, made_with: str, **record: Any) -> dict[str, Any]:
        """Record what was measured of a part; returns the record."""
        whole = {"fingerprint": made_with, **record}
        write_json(self.folder / part / MEASURED, whole)
        return whole

    def _other_settings(self, folder: Path) -> ConfigError:
        return ConfigError(
            f"{folder} was trained with other settings or other data",
            expected="the settings and data it was trained with",
            action=self.anew,
        )
