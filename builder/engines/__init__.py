"""ONNX to engine: one module per engine kind.

A module `builder/engines/<kind>.py` defines `KIND`, an `EngineKind`, and is found by its name in
`Stage.engines`: adding an engine kind means adding a file.
"""
