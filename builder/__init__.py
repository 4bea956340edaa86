"""From PyTorch checkpoints to a Triton model repository of compiled engines."""

__version__ = "0.1.0"
