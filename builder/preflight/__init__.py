"""Preflight: finding out before a server starts whether TensorRT plans will load.

A plan runs only with the TensorRT version, the operating system and the GPU architecture that it
was built for. Nothing in the file can be asked for these, and on a GPU without a plan of its own
Triton quietly loads another file; so the records beside the plans are compared with the server
and the GPU at hand.
"""
