"""What plugs into Inspect AI: the model provider, its batches and model pool, metrics, and what is registered under ``mogu/``."""
