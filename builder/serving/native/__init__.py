"""C++ sources of the native `onnxruntime` backend; see backend.cc for how they fit together."""
