"""What building TensorRT plans takes; `builder.engines.tensorrt` is the engine kind itself.

Nothing here imports tensorrt or polygraphy before a plan is built: see `seam`.
"""
