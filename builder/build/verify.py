"""The last proof: a real server loads the repository and answers the golden requests."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.build.action import Action
from builder.build.export_action import export_folder
from builder.build.plan import Context
from builder.digest import code_digest, sha256_value, versions_of
from builder.engines.engine import engine_kind
from builder.errors import ServerError
from builder.files import write_atomic
from builder.golden import GOLDEN, read_golden

FILE = "verified.json"


@dataclass(frozen=True, slots=True)
class Served:
    """What the server made of one model.

    Attributes:
        load_ms: Time to load it, in milliseconds, what it depends on included.
        latency_ms: Time of the golden request, in milliseconds.
        worst: Largest difference from the reference.
        error: What is wrong; None if it loaded and answered as it should.
    """

    model: str
    load_ms: float = 0.0
    latency_ms: float = 0.0
    worst: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The server's results by model.

    Attributes:
        digest: Of everything that was verified.
        server: The server that was used, in words.
    """

    digest: str
    server: str
    models: dict[str, Served] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every model loaded and answered as it should."""
        return all(served.error is None for served in self.models.values())


def verification_digest(context: Context, plan: list[Action]) -> str:
    """Digest of what a verification depends on: the artefacts, the server and its backends."""
    records = {str(a): _made_from(a) for a in plan if a.artefact != "export"}
    return sha256_value(
        [
            records,
            code_digest("builder.serving"),
            _native_sources(),
            dict(versions_of("nvidia-pytriton", "onnxruntime", "torch")),
            asdict(context.config.server),
        ]
    )


def read_verification(folder: Path) -> Verification | None:
    """The last verification that passed, if there is one."""
    try:
        data: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        models = {name: Served(**served) for name, served in data["models"].items()}
        return Verification(data["digest"], data["server"], models)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def verify(
    context: Context, plan: list[Action], progress: Callable[[str, int, int], None]
) -> Verification:
    """Start the server, load every model of the plan and send its golden request.

    Args:
        progress: Called with a model's name, how many are done and how many there are.

    Raises:
        ServerError: The server does not start.
    """
    from builder.serving.client import connect
    from builder.serving.golden import check_golden
    from builder.serving.launch import make_server

    digest = verification_digest(context, plan)
    server, _ = make_server(context.config, free_ports=True, check_plans=False)
    # Plans are proven on the GPU when they are built; the embedded server has no backend for them.
    served = [a for a in plan if a.artefact != "export" and not a.target]
    # Loading one by one is slower than all at once, but tells what each model costs.
    server.load, server.model_control = (), "explicit"
    results: dict[str, Served] = {}
    with server:
        client = connect(server.grpc_url)
        for done, action in enumerate(served):
            progress(action.model, done, len(served))
            start = time.perf_counter()
            try:
                client.load_model(action.model, client_timeout=context.config.server.timeout)
            except Exception as error:
                reason = next(
                    (s.reason for s in server.failures() if s.name == action.model), str(error)
                )
                results[action.model] = Served(action.model, error=f"did not load: {reason}")
                continue
            load_ms = (time.perf_counter() - start) * 1e3
            [result] = check_golden(client, [_golden_request(context, action)])
            results[action.model] = Served(
                action.model,
                load_ms=round(load_ms, 1),
                latency_ms=round(result.latency_ms, 2),
                worst=max(result.max_abs.values(), default=0.0),
                error=result.error,
            )
        client.close()
    verification = Verification(digest, str(server.installation.kind), results)
    if verification.ok:
        write_atomic(
            context.config.build_dir / FILE, json.dumps(asdict(verification), indent=1).encode()
        )
    return verification


def _golden_request(context: Context, action: Action) -> Any:
    from builder.serving.golden import GoldenRequest

    registry = context.registry
    if action.model in registry.pipelines:
        pipeline = registry.pipelines[action.model]
        inputs, outputs = read_golden(action.folder / GOLDEN)
        return GoldenRequest(pipeline.name, inputs, outputs, pipeline.tolerance)
    for stage in registry.stages.values():
        if any(engine_kind(kind).model_name(stage) == action.model for kind in stage.engines):
            folder = export_folder(context.config.exports, stage)
            inputs, outputs = read_golden(folder / GOLDEN)
            version = action.folder.name
            return GoldenRequest(action.model, inputs, outputs, stage.tolerance, version)
    raise ServerError(f"no golden request for {action.model}")


def _made_from(action: Action) -> Any:
    record = action.read_record()
    return None if record is None else [dict(record.made_from), dict(record.files)]


def _native_sources() -> str:
    import builder.serving.native

    folder = Path(builder.serving.native.__file__).parent
    return sha256_value(
        {
            p.name: p.read_text(encoding="utf-8")
            for p in sorted(folder.iterdir())
            if p.suffix in (".cc", ".h")
        }
    )
