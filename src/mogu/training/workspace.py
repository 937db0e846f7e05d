"""The working folder of a training run: what was begun, what is finished, what was measured, and with which settings.

Knows files; knows nothing of models. Every file here appears whole or not at all, and is noticed to be damaged before it is used. Of
several processes the main one reads and writes, and the others, which call the same methods, are told what it found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mogu.errors import ConfigError, MoguError
from mogu.files.atomic import check_replaceable, discard, remove_leftovers
from mogu.files.digests import file_digest, first_damage
from mogu.files.json_files import read_kept, read_sealed, write_sealed
from mogu.files.locks import LOCK_FILE, locked
from mogu.processes import by_main, on_main
from mogu.training.training_state import BEGUN, DONE, INCOMING, MEASURED, finished_files, last_checkpoint, step_of

MARKER = "mogu_training.json"


class Workspace:
    """The working folder, with a folder for each part: a stage, or a trial of the router stage.

    A fingerprint stands for the settings and the data of a part; see :func:`mogu.files.json_files.fingerprint`.

    Args:
        folder: made if it is missing.
        command: the command whose working folder this is, for whoever comes across it.
        how_to_resume: what to do to resume a run that was stopped, for error messages.
        how_to_restart: what to do to train from the beginning, for error messages.
        date: when the run began, which chat templates may write into prompts; by default what the folder says already, or now.

    Raises:
        MoguError: the folder exists and is not ours, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        command: str = "mogu train",
        how_to_resume: str = "pass --resume to go on from there, or --restart to discard it",
        how_to_restart: str = "choose another run.work, or pass --restart to discard it and train again",
        date: datetime | None = None,
    ) -> None:
        on_main(lambda: check_replaceable(folder, marker=MARKER))
        self.folder, self.how_to_resume, self.how_to_restart = folder, how_to_resume, how_to_restart
        what = f"working folder of `{command}`; may be deleted when the model is saved"
        self._marker = {"what": what, "date": (date or date_of_run(folder)).isoformat()}
        on_main(self._mark)

    def _mark(self) -> None:
        if not (self.folder / MARKER).is_file():
            write_sealed(self.folder / MARKER, self._marker)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder to this run until the block ends.

        Raises:
            MoguError: another process is training in it.
        """
        busy = MoguError(
            f"Another process is training in {self.folder}",
            expected="one process at a time in a working folder",
            action="wait for it, stop it, or choose another run.work",
        )
        with ExitStack() as lock:
            on_main(lambda: self._lock(lock, busy))
            yield

    def _lock(self, lock: ExitStack, busy: MoguError) -> None:
        lock.enter_context(locked(self.folder / LOCK_FILE, busy))
        remove_leftovers(self.folder)
        write_sealed(self.folder / MARKER, self._marker)

    @by_main
    def discard(self, part: str) -> None:
        """Delete a part, if it is there."""
        discard(self.folder / part)

    @by_main
    def begin(self, part: str, fingerprint: str, *, resume: bool) -> Path:
        """Start a part, or resume it; return its folder, whose last checkpoint training goes on from.

        Args:
            part: the part.
            fingerprint: of its settings and data.
            resume: whether to go on from a checkpoint that an earlier run left.

        Raises:
            ConfigError: an earlier run left a checkpoint, and it has other settings, or ``resume`` is not set.
        """
        folder = self.folder / part
        checkpoint = last_checkpoint(folder)
        if checkpoint is None:
            discard(folder)
            write_sealed(folder / BEGUN, {"fingerprint": fingerprint})
            return folder
        begun = read_sealed(folder / BEGUN)
        if begun is None or begun.get("fingerprint") != fingerprint:
            raise self._other_settings(folder)
        if not resume:
            raise ConfigError(
                f"{folder} holds a training run that stopped at step {step_of(checkpoint)}",
                expected="a decision on whether to resume or to discard it",
                action=self.how_to_resume,
            )
        return folder

    @by_main
    def finished(self, part: str, fingerprint: str) -> dict[str, Any] | None:
        """What a finished part recorded, or ``None`` if it is not finished.

        Args:
            part: the part.
            fingerprint: of its settings and data as they are now.

        Raises:
            ConfigError: it was finished with other settings or data.
            MoguError: something in it is no longer what it was.
        """
        folder = self.folder / part
        record = read_sealed(folder / DONE)
        if record is None:
            return None
        if record.get("fingerprint") != fingerprint:
            raise self._other_settings(folder)
        if (damage := first_damage(folder, record.pop("files"))) is not None:
            raise MoguError(
                f"What {folder} holds is damaged: {damage}",
                expected="the files as they were when that part was finished",
                action=f"look after the disk, delete {folder} and run again with --resume: that part alone is made again",
            )
        return record

    @by_main
    def finish(self, part: str, fingerprint: str, *, elsewhere: Sequence[Path] = (), **record: Any) -> dict[str, Any]:
        """Record that a part is finished, and delete its checkpoints, which are large and no longer of use.

        Args:
            part: the part.
            fingerprint: of its settings and data.
            elsewhere: files that belong to the part and lie outside its folder; those in it are known.
            record: what is to be known of it.
        """
        folder = self.folder / part
        whole = {"fingerprint": fingerprint, **record}
        files = finished_files(folder, history=True) | {os.path.relpath(file, folder): file_digest(file) for file in elsewhere}
        write_sealed(folder / DONE, {**whole, "files": files})
        for path in [*folder.glob("checkpoint-*"), folder / INCOMING]:
            discard(path)
        return whole

    @by_main
    def measured(self, part: str, fingerprint: str) -> dict[str, Any] | None:
        """What was measured of a part; ``None`` if nothing was, or on other records or in another way."""
        record = read_kept(self.folder / part / MEASURED)
        return record if record is not None and record.get("fingerprint") == fingerprint else None

    @by_main
    def measure(self, part: str, fingerprint: str, **record: Any) -> dict[str, Any]:
        """Record what was measured of a part; return the record."""
        whole = {"fingerprint": fingerprint, **record}
        write_sealed(self.folder / part / MEASURED, whole)
        return whole

    def _other_settings(self, folder: Path) -> ConfigError:
        return ConfigError(
            f"{folder} was trained with other settings or other data",
            expected="the settings and data it was trained with",
            action=self.how_to_restart,
        )


@by_main
def date_of_run(folder: Path) -> datetime:
    """When the run in a working folder began; now, if the folder holds none.

    Some chat templates write today's date into the prompt. A run that goes on after midnight has to go on with the prompts it began with.
    """
    marker = read_sealed(folder / MARKER) or {}
    return datetime.fromisoformat(marker["date"]) if "date" in marker else datetime.now()
