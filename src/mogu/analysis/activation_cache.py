"""Activations on disk, batch by batch, so that a run that was stopped reads no prompt twice.

Knows files and tensors; knows nothing of how the activations are used.
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

from mogu.analysis.scaled_half import ScaledHalf
from mogu.analysis.weight_digest import digest_weights
from mogu.errors import ModelFileError
from mogu.files.atomic import atomic_file
from mogu.modeling.adapter_files import read_tensors
from mogu.modeling.architectures import Projection

_FINGERPRINT_FILE = "fingerprint.json"


@dataclass(frozen=True)
class CachedBatch:
    """The activations of some of the prompts.

    Args:
        prompts: their indices in the list of all prompts.
        vectors: for each kind ``[layers, these prompts, d_in]``, in the order of ``prompts``.
    """

    prompts: tuple[int, ...]
    vectors: Mapping[Any, ScaledHalf]


class ActivationCache:
    """A folder of batches that all belong to one model and one list of prompts.

    Args:
        folder: created if it is missing; batches of another model or of other prompts are deleted.
        fingerprint: see :func:`activations_fingerprint`.
        kinds: the kinds of activations that each batch holds.

    Raises:
        MoguError: the folder cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: str, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, tuple(kinds)
        note = folder / _FINGERPRINT_FILE
        if not note.is_file() or note.read_bytes() != fingerprint.encode():
            note.unlink(missing_ok=True)  # first, because batches without a fingerprint count for no model
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_file(note) as scratch:
                scratch.write_text(fingerprint, encoding="utf-8")

    def read(self) -> list[CachedBatch]:
        """Read all batches; a damaged one is deleted and counts as missing."""
        batches = []
        for file in sorted(self.folder.glob("part-*.safetensors")):
            try:
                tensors = read_tensors(file)
                vectors = {kind: ScaledHalf(tensors[f"{kind}.values"], tensors[f"{kind}.exponents"]) for kind in self.kinds}
                batches.append(CachedBatch(tuple(tensors["prompts"].tolist()), vectors))
            except (ModelFileError, KeyError):
                file.unlink()
        return batches

    def write(self, batch: CachedBatch) -> None:
        """Write a batch, whole or not at all.

        Raises:
            MoguError: the file system refuses.
        """
        tensors = {"prompts": torch.tensor(batch.prompts)}
        for kind, vectors in batch.vectors.items():
            tensors |= {f"{kind}.values": vectors.values.contiguous(), f"{kind}.exponents": vectors.exponents.contiguous()}
        with atomic_file(self.folder / f"part-{batch.prompts[0]:06d}.safetensors") as scratch:
            scratch.write_bytes(save(tensors))


def activations_fingerprint(model: nn.Module, projections: Sequence[Projection], prompts: Sequence[list[int]]) -> str:
    """Return a SHA-256 of the prompts' tokens, the projections' names and the model's weights, wherever the model is stored."""
    digest = hashlib.sha256(json.dumps([[projection.name for projection in projections], list(prompts)]).encode())
    digest_weights(digest, model)
    return digest.hexdigest()
