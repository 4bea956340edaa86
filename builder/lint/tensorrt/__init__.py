"""Operator preflight: will the TensorRT ONNX parser take a graph?

    findings = lint_onnx([Path("model.onnx")])

One rule per file in `rules`, the parser's own list of operators in `operators.toml`. It finds out
before anybody pays for a build on a GPU, and on machines without one. What it cannot see is what
TensorRT decides while it builds: that it has no kernel for a combination, or too little memory.
"""
