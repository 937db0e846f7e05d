"""Where models come from: folders, GGUF files, models with names of ours, the package index and the hub; safe by default.

Remote code runs only where the caller says so, and pickled weights are read by PyTorch's restricted loader only.
"""

from mogu.hub.adapters import adapted_base, has_adapter, merge_adapter
from mogu.hub.loading import load_base, load_classifier, load_config, load_tokenizer, read_template
from mogu.hub.saved_models import fetch_model_folder, push_folder
from mogu.hub.sources import at_revision, gguf_digest, locate_gguf, named_folder, resolve_source

__all__ = [
    "adapted_base",
    "at_revision",
    "fetch_model_folder",
    "gguf_digest",
    "has_adapter",
    "load_base",
    "load_classifier",
    "load_config",
    "load_tokenizer",
    "locate_gguf",
    "merge_adapter",
    "named_folder",
    "push_folder",
    "read_template",
    "resolve_source",
]
