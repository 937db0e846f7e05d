"""The method: routed layers and their routers in a base model, routed generation, the malicious score, and the saved model.

Importing this package imports no PyTorch. It knows nothing of training data, losses, evaluation or serving.
"""
