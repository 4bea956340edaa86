"""A model whose weights stay in the checkpoint's files, up to a real server."""

import dataclasses
from pathlib import Path

import torch

from builder.build.execute import execute
from builder.build.plan import make_context, make_plan
from builder.build.verify import verify
from builder.config import Config
from builder.engines.onnxruntime import FILE
from builder.family import Registry
from builder.lint import lint
from tests.export.stored_stage import stored_stage, write_shards

ROOT = Path(__file__).parents[2]


def test_a_real_server_serves_weights_that_are_linked(config: Config, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "checkpoint", torch.bfloat16)
    stage = dataclasses.replace(stored_stage(tmp_path / "checkpoint"), max_batch_size=4)
    config.build_dir.mkdir()
    (ROOT / "build" / "backends").mkdir(parents=True, exist_ok=True)
    (config.build_dir / "backends").symlink_to(ROOT / "build" / "backends")
    config = config.replace("build", stream_from_mib=0)
    context = make_context(config, Registry({"net": stage}, {}))
    plan = make_plan(context)
    outcomes = execute(plan, context.digests)
    assert {str(a): str(o.error) for a, o in outcomes.items() if not o.ok} == {}
    version = config.repository / "onnx" / "net" / "1"
    names = {path.name for path in version.iterdir()}
    assert names == {FILE, "record.json", *(shard.name for shard in shards)}
    assert [f for f in lint([config.repository / "onnx"]) if f.severity == "error"] == []
    assert {o.status for o in execute(plan, context.digests).values()} == {"current"}
    verification = verify(context, plan, lambda model, done, count: None)
    assert verification.models["net"].error is None
    assert verification.models["net"].worst is not None
    assert verification.models["net"].worst <= 5e-6
    # A shard that is edited in place is noticed.
    with shards[0].open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\0\0")
    outcomes = execute(plan, context.digests)
    assert all(o.status == "made" for o in outcomes.values())
