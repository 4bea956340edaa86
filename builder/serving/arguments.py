"""The command line of tritonserver (its `--help` documents each argument)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

ModelControl = Literal["none", "explicit", "poll"]

LOG_FLAGS: Mapping[str, tuple[str, ...]] = {
    "error": ("--log-warning=false", "--log-info=false"),
    "warning": ("--log-info=false",),
    "info": (),
    "verbose": ("--log-verbose=1",),
}
"""Arguments for each log level."""

_POLL_SECONDS = 1


def tritonserver_arguments(
    *,
    server_id: str,
    repositories: Sequence[Path],
    host: str,
    ports: Mapping[str, int],
    model_control: ModelControl,
    load: Sequence[str] | None,
    model_config_name: str | None,
    backend_directory: Path | None,
    response_cache_mib: int,
    cache_directory: Path | None,
    log_level: str,
    exit_timeout: int,
) -> list[str]:
    """Arguments that mean the same wherever the server runs.

    Args:
        server_id: What the server calls itself, so that it can be told from others.
        ports: For `http`, `grpc` and, unless metrics are off, `metrics`.
        load: Models to load under explicit control; None loads all.
        cache_directory: Folder of the response caches; None leaves the server its default.

    The others are documented at `TritonServer`.
    """
    args = [
        f"--id={server_id}",
        *(f"--model-repository={repository}" for repository in repositories),
        f"--model-control-mode={model_control}",
        # A model that fails to load must neither end the server nor hide the reason.
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={exit_timeout}",
        f"--http-address={host}",
        f"--grpc-address={host}",
        f"--http-port={ports['http']}",
        f"--grpc-port={ports['grpc']}",
        *LOG_FLAGS[log_level],
    ]
    if "metrics" in ports:
        args += [f"--metrics-address={host}", f"--metrics-port={ports['metrics']}"]
    else:
        args += ["--allow-metrics=false"]
    if load is not None:
        args += [f"--load-model={name}" for name in load]
    elif model_control == "explicit":
        args += ["--load-model=*"]
    if model_control == "poll":
        args += [f"--repository-poll-secs={_POLL_SECONDS}"]
    if model_config_name:
        args += [f"--model-config-name={model_config_name}"]
    if backend_directory:
        args += [f"--backend-directory={backend_directory}"]
    if response_cache_mib:
        args += [f"--cache-config=local,size={response_cache_mib << 20}"]
        if cache_directory:
            args += [f"--cache-directory={cache_directory}"]
    return args


def local_arguments(server_id: str) -> list[str]:
    """Arguments for a server that runs on this machine outside of a container."""
    # Regions of a server that was killed can be told by this prefix, and removed.
    args = [f"--backend-config=python,shm-region-prefix-name={server_id}-"]
    if not Path("/dev/nvidiactl").exists():
        # Without a GPU these only produce warnings.
        args += ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
    return args
