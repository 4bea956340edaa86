#!/usr/bin/env python
"""Convert an ONNX file to a TensorRT plan for the GPU of this machine.

    scripts/convert_tensorrt.py --onnx model.onnx --output sm90.plan --fp16 --workspace 4096

`builder build --target sm90` does this for every model of the repository, and compares each plan
with its ONNX model; this is for a single file of your own.
"""

import sys
from pathlib import Path

import click
from rich.console import Console

from builder.cli._progress import progress_bar
from builder.engines.trt.convert import convert_file, parse_shapes
from builder.engines.trt.options import TensorRTOptions
from builder.errors import BuilderError, UsageError
from builder.target import parse_target


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--onnx", type=click.Path(path_type=Path), required=True, help="The ONNX file, FP32.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The plan to write.")
@click.option("--fp16", is_flag=True, help="Compute in FP16, where it is safe.")
@click.option("--bf16", is_flag=True, help="Compute in BF16, where it is safe.")
@click.option("--int8", is_flag=True, help="Quantise to INT8; needs nvidia-modelopt.")
@click.option("--fp8", is_flag=True, help="Quantise to FP8; needs nvidia-modelopt.")
@click.option("--tf32", is_flag=True, help="Let FP32 matrix products round their inputs.")
@click.option("--workspace", default=0, metavar="MIB", help="GPU memory for a layer; 0: no limit.")
@click.option("--profile", "profiles", multiple=True, help="T=1:100:4096; repeat for several.")
@click.option("--min-shapes", "--minShapes", help="Instead of --profile: input:1x25,...")
@click.option("--opt-shapes", "--optShapes", help="Shapes to optimise for.")
@click.option("--max-shapes", "--maxShapes", help="Largest shapes.")
@click.option("--optimization-level", default=3, help="0 (quick) to 5 (thorough).")
@click.option("--target", help="Refuse to build unless this is the GPU here, e.g. sm90.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for timing caches.")
def main(
    onnx: Path,
    output: Path,
    fp16: bool,
    bf16: bool,
    int8: bool,
    fp8: bool,
    tf32: bool,
    workspace: int,
    profiles: tuple[str, ...],
    min_shapes: str | None,
    opt_shapes: str | None,
    max_shapes: str | None,
    optimization_level: int,
    target: str | None,
    cache: Path | None,
) -> None:
    """Convert an ONNX file to a TensorRT plan for the GPU of this machine."""
    chosen = {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
    precisions = [name for name, wanted in chosen.items() if wanted]
    texts = (min_shapes, opt_shapes, max_shapes)
    try:
        if len(precisions) > 1:
            raise UsageError(f"one precision at a time: --{' or --'.join(precisions)}")
        if any(texts) and not all(texts):
            raise UsageError("--min-shapes, --opt-shapes and --max-shapes belong together")
        low, usual, high = (parse_shapes(text) if text else {} for text in texts)
        options = TensorRTOptions(
            workspace_mib=workspace, optimization_level=optimization_level, tf32=tf32
        )
        options.check("the options")
        with progress_bar(Console(stderr=True)) as progress:
            task = progress.add_task("building", total=None)
            plan = convert_file(
                onnx,
                output,
                precision=precisions[0] if precisions else "fp32",
                options=options,
                profiles=profiles,
                shapes=(low, usual, high) if any(texts) else None,
                target=parse_target(target) if target else None,
                cache=cache,
                progress=lambda phase, done, total: progress.update(
                    task, description=phase, completed=done, total=total
                ),
            )
    except BuilderError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    size = output.stat().st_size
    click.echo(
        f"{output}: {size / (1 << 20):.1f} MiB, {plan.precision}, TensorRT {plan.tensorrt}, "
        f"for {plan.spec.gpu.name} (compute capability {plan.spec.gpu.compute_capability})"
    )


if __name__ == "__main__":
    main()
