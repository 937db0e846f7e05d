"""Serve hardened models with vLLM: the plugin, and its additions to the command line and the API.

Knows saved models and vLLM; knows nothing of training or evaluation. Importing this package does not import vLLM.
"""

from mogu.serving.request_settings import RequestSettings

__all__ = ["RequestSettings"]
