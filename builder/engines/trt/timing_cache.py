"""Timing caches: how long each kernel took, so that the next build need not try it again.

A cache only holds for one GPU model and one TensorRT version, so both are in its name. It is a
matter of time only: one that is lost or damaged is made again.
"""

import re
from pathlib import Path

from builder.engines.trt.gpu import Gpu

FOLDER = "timing-caches"


def timing_cache(build_dir: Path, gpu: Gpu, tensorrt: str) -> Path:
    """`build/timing-caches/NVIDIA-H100-PCIe-sm90-trt11.4.0.106.cache`."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    version = re.sub(r"[^A-Za-z0-9.]+", "-", tensorrt)
    capability = gpu.compute_capability.replace(".", "")
    return build_dir / FOLDER / f"{name}-sm{capability}-trt{version}.cache"
