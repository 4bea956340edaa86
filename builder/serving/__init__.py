"""Finding, launching and talking to tritonserver."""
