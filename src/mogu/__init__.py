"""MoGU: two LoRA responders and a router inside each attention layer make a chat model refuse malicious requests and answer the rest."""

from typing import TYPE_CHECKING, Any

from mogu.errors import MoguError
from mogu.modeling.config import MoguConfig

if TYPE_CHECKING:
    from mogu.modeling.model import MoguModel

__all__ = ["MoguConfig", "MoguError", "MoguModel", "__version__"]

__version__ = "0.1.0"  # the only place; pyproject.toml reads it here, and a test holds CITATION.cff to it


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only when the model is wanted
    if name == "MoguModel":
        from mogu.modeling.model import MoguModel

        return MoguModel
    raise AttributeError(f"module 'mogu' has no attribute {name!r}")
