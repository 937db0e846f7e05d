"""Serving hardened models with vLLM: the plugin, and what the command line and the API add.

Knows saved models and vLLM; knows nothing of training or evaluation. Importing this package imports no vLLM.
"""

from mogu.serving.request_settings import RoutedOpening

__all__ = ["RoutedOpening"]
