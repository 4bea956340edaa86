"""Rules over any Triton model repository, one module per rule."""
