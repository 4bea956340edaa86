"""PyTorch to ONNX: tracing, weight swapping, parity."""
