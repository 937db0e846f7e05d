"""Time and memory of MoGU, its base model and the published procedure: ``python -m benchmarks``."""
