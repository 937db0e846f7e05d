"""What MoGU costs beside its base model and beside the published procedure; run with ``python -m benchmarks``."""
