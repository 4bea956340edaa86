"""ONNX to engine: one module per engine kind."""
