"""What a model shows of itself without being trained or judged: probes, routing maps, response tendency.

Each module is imported by its own name; importing this package imports no PyTorch.
"""
