"""The PyTorch modules of the anomaly family. Everything below imports torch."""
