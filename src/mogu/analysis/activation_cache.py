"""Activations on disk, batch by batch, so that a run that was stopped reads no prompt twice.

Knows files and tensors; knows nothing of what they will be used for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from mogu.analysis.scaled_half import Halves
from mogu.analysis.weight_digest import digest_weights
from mogu.errors import ModelFileError
from mogu.files.atomic import atomic_file
from mogu.modeling.adapter_files import read_tensors
from mogu.modeling.architectures import Projection

_FINGERPRINT_FILE = "fingerprint.json"


@dataclass(frozen=True)
class Part:
    """The activations of some prompts.

    Args:
        prompts: their places in the list of all prompts.
        vectors: of each kind ``[layers, these prompts, d_in]``, in the order of ``prompts``.
    """

    prompts: tuple[int, ...]
    vectors: Mapping[Any, Halves]


class Parts:
    """A folder of parts that all belong to one model and one list of prompts.

    Args:
        folder: made if it is missing; parts of another model or of other prompts are thrown away.
        made_with: see :func:`fingerprint`.
        kinds: what each part holds.

    Raises:
        MoguError: the folder cannot be written.
    """

    def __init__(self, folder: Path, made_with: str, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, tuple(kinds)
        note = folder / _FINGERPRINT_FILE
        if not note.is_file() or note.read_text(encoding="utf-8") != made_with:
            note.unlink(missing_ok=True)  # first: parts without it are nobody's
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_file(note) as scratch:
                scratch.write_text(made_with, encoding="utf-8")

    def read(self) -> list[Part]:
        """What is there; a part that the disk has spoiled counts as not there."""
        found = []
        for file in sorted(self.folder.glob("part-*.safetensors")):
            try:
                tensors = read_tensors(file)
                vectors = {kind: Halves(tensors[f"{kind}.values"], tensors[f"{kind}.exponents"]) for kind in self.kinds}
                found.append(Part(tuple(tensors["prompts"].tolist()), vectors))
            except (ModelFileError, KeyError):
                file.unlink()
        return found

    def write(self, part: Part) -> None:
        """Keep a part; it is there whole or not at all.

        Raises:
            MoguError: the file system refuses.
        """
        tensors = {"prompts": torch.tensor(part.prompts)}
        for kind, half in part.vectors.items():
            tensors |= {f"{kind}.values": half.values.contiguous(), f"{kind}.exponents": half.exponents.contiguous()}
        with atomic_file(self.folder / f"part-{part.prompts[0]:06d}.safetensors") as scratch:
            scratch.write_bytes(save(tensors))


def fingerprint(model: nn.Module, projections: Sequence[Projection], prompts: Sequence[list[int]]) -> str:
    """SHA-256 of the prompts' tokens, the names of the projections and the weights, wherever the model lies."""
    digest = hashlib.sha256(json.dumps([[one.name for one in projections], list(prompts)]).encode())
    digest_weights(digest, model)
    return digest.hexdigest()
