#!/usr/bin/env python
"""Would one model that holds the weights of all channels be faster than one model per channel?

    .venv/bin/python scripts/bench_bank.py              # builds nothing: run `make engines` before

`smap_bank` takes `input_data` [B,T,25] and `channel` [B,1], so that requests for different
channels could share one batch. It must equal the single models, or the script fails. Measured are

1. the recurrent layers alone, in process: what does ONNX Runtime gain from a batch?
2. bank and single models in process,
3. the same on the server under a mixed load over all channels, beside `nothing`, a model of the
   same tensors that computes nothing: no bank that is asked for one window at a time can be
   faster than that. `all at once` sends one window of every channel in one request.

The server's CPU time per window is the figure to trust where other work shares the cores.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from builder.config import Config, load_config
from builder.families.anomaly.channels import CHANNELS, FEATURES
from builder.families.anomaly.models import smap_bank
from builder.families.anomaly.models.detector import telemetry_window
from builder.serving.client import connect, infer
from builder.serving.launch import make_server
from builder.stage import OnnxSource

COUNT = len(CHANNELS)
BANK = "bench_bank"
"""Another name than that of the stage, which may be served, too."""
OUTPUTS = (
    ("reconstruction", TensorProto.FLOAT, [FEATURES]),
    ("anomaly_score", TensorProto.FLOAT, []),
    ("anomaly_detected", TensorProto.BOOL, []),
)


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A session on one thread, as the server has it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def engine(config: Config, channel: Any) -> Path:
    """The published engine of a channel."""
    return config.repository / "onnx" / channel.model / "1" / "model.onnx"


def nothing(config: Config) -> onnx.ModelProto:
    """A model of the bank's tensors that computes nothing."""
    nodes = [
        helper.make_node("Identity", ["input_data"], ["reconstruction"]),
        helper.make_node("Gather", ["input_data", "first"], ["anomaly_score"], axis=2),
        helper.make_node("Cast", ["anomaly_score"], ["anomaly_detected"], to=TensorProto.BOOL),
        helper.make_node("Identity", ["channel"], ["unused"]),
    ]
    first = numpy_helper.from_array(np.array(0, np.int64), "first")
    return _with_batch(nodes, [first], onnx.load(engine(config, CHANNELS[0])))


def _with_batch(
    nodes: list[onnx.NodeProto], initialisers: list[onnx.TensorProto], like: onnx.ModelProto
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bank",
        [
            value("input_data", TensorProto.FLOAT, ["B", "T", FEATURES]),
            value("channel", TensorProto.INT64, ["B", 1]),
        ],
        [value(name, kind, ["B", "T", *dims]) for name, kind, dims in OUTPUTS],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version)


def recurrent(batch: int, samples: int) -> tuple[ort.InferenceSession, dict[str, Any]]:
    """Two GRU layers over a batch, as in the detectors."""
    rng = np.random.default_rng(0)
    nodes, initialisers = [], [numpy_helper.from_array(np.array([1], np.int64), "axis")]
    tensor = "x"
    for layer, width in enumerate((FEATURES, 32)):
        for name, shape in (("W", (1, 96, width)), ("R", (1, 96, 32)), ("B", (1, 192))):
            array = rng.uniform(-0.2, 0.2, shape).astype(np.float32)
            initialisers.append(numpy_helper.from_array(array, f"{name}{layer}"))
        names = [tensor, *(f"{n}{layer}" for n in "WRB")]
        nodes += [
            helper.make_node("GRU", names, [f"y{layer}"], hidden_size=32, linear_before_reset=1),
            helper.make_node("Squeeze", [f"y{layer}", "axis"], [f"h{layer}"]),
        ]
        tensor = f"h{layer}"
    shape: list[str | int] = ["T", "B", FEATURES]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [*shape[:2], 32])],
        initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return session(model), {"x": rng.random((samples, batch, FEATURES), np.float32)}


def time_all(jobs: dict[str, tuple[int, Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """Median CPU microseconds per window of each job (windows, call), measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (windows, call) in jobs.items():
            began = time.thread_time()
            call()
            times[name].append((time.thread_time() - began) / windows * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def in_process(config: Config, model: onnx.ModelProto, samples: int, rounds: int) -> None:
    """Check the bank against the single models, and print what both take."""
    singles = [session(engine(config, channel)) for channel in CHANNELS]
    one = session(model)
    windows = np.stack([telemetry_window(samples, np.random.default_rng(i)) for i in range(COUNT)])
    channels = np.arange(COUNT, dtype=np.int64)[:, None]

    def ask_singles() -> list[Any]:
        return [s.run(None, {"input_data": w}) for s, w in zip(singles, windows, strict=True)]

    def ask_bank(batch: int) -> list[Any]:
        feeds = {"input_data": windows[:batch], "channel": channels[:batch]}
        return list(one.run(None, feeds))

    together = ask_bank(COUNT)
    for row, want in enumerate(ask_singles()):
        for output, expected in zip(together, want, strict=True):
            if not np.allclose(output[row], expected, atol=1e-5):
                raise SystemExit(f"the bank differs from {CHANNELS[row].model}")
    jobs: dict[str, tuple[int, Callable[[], Any]]] = {}
    for batch in (1, 4, 8, 16):
        gru, feeds = recurrent(batch, samples)
        jobs[f"recurrent layers, batch {batch:2}"] = (batch, lambda g=gru, f=feeds: g.run(None, f))
    jobs["27 single models in turn"] = (COUNT, ask_singles)
    for batch in (1, 4, 8, 16, COUNT):
        jobs[f"bank, batch {batch:2}"] = (batch, lambda b=batch: ask_bank(b))
    for name, microseconds in time_all(jobs, rounds).items():
        click.echo(f"{name:28} {microseconds:7.0f} us of CPU per window")


def client_loop(
    url: str, kind: str, seed: int, samples: int, start: Any, seconds: float, results: Any
) -> None:
    """Ask about random channels until the time is up; report the number of windows."""
    rng = np.random.default_rng(seed)
    client = connect(url)
    window = telemetry_window(samples, rng)
    everything = np.repeat(window[None], COUNT, axis=0)
    channels = np.arange(COUNT, dtype=np.int64)[:, None]

    def ask() -> int:
        which = int(rng.integers(COUNT))
        if kind == "singles":
            infer(client, CHANNELS[which].model, {"input_data": window})
        elif kind == "all at once":
            infer(client, BANK, {"input_data": everything, "channel": channels})
            return COUNT
        else:
            model = BANK if kind == "bank" else "nothing"
            feeds = {"input_data": window[None], "channel": channels[which : which + 1]}
            infer(client, model, feeds)
        return 1

    ask()
    start.wait()
    windows, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        windows += ask()
    results.put(windows)
    client.close()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_server(server: Any, kind: str, samples: int, clients: int, seconds: float) -> Any:
    """Windows per second, and the server's CPU microseconds per window."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(clients + 1), context.Queue()
    processes = [
        context.Process(
            target=client_loop,
            args=(server.grpc_url, kind, seed, samples, start, seconds, results),
        )
        for seed in range(clients)
    ]
    for process in processes:
        process.start()
    start.wait()
    began, before = time.perf_counter(), cpu_seconds(server.pid)
    windows = sum(results.get() for _ in processes)
    used, elapsed = cpu_seconds(server.pid) - before, time.perf_counter() - began
    for process in processes:
        process.join()
    return windows / elapsed, used / windows * 1e6


def publish(folder: Path, name: str, model: onnx.ModelProto) -> None:
    """Write a model with a dynamic batcher."""
    (folder / name / "1").mkdir(parents=True)
    onnx.save(model, folder / name / "1" / "model.onnx")
    (folder / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {COUNT}\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    )


@click.command()
@click.option("--samples", default=100, show_default=True, help="Samples in a window.")
@click.option("--clients", default=8, show_default=True, help="Client processes.")
@click.option("--rounds", default=5, show_default=True, help="Rounds, interleaved.")
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of each measurement.")
def main(samples: int, clients: int, rounds: int, seconds: float) -> None:
    """Compare one model for all channels with one model per channel."""
    config = load_config()
    source = smap_bank.stage(config).source
    assert isinstance(source, OnnxSource)
    model = source.build()
    in_process(config, model, samples, 20 * rounds)
    kinds = ("singles", "bank", "nothing", "all at once")
    runs: dict[str, list[Any]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), BANK, model)
        publish(Path(folder), "nothing", nothing(config))
        singles = [channel.model for channel in CHANNELS]
        server, _ = make_server(config, models=singles, free_ports=True)
        server.repositories += (Path(folder),)
        server.load = (*singles, BANK, "nothing")
        with server:
            for _ in range(rounds):
                for kind in kinds:
                    runs[kind].append(on_server(server, kind, samples, clients, seconds))
    for kind in kinds:
        rate, cpu = (statistics.median(values) for values in zip(*runs[kind], strict=True))
        ratio = statistics.median(
            a[0] / b[0] for a, b in zip(runs[kind], runs["singles"], strict=True)
        )
        click.echo(
            f"{kind:12} {rate:6.0f} windows/s ({ratio:.2f} of the single models), "
            f"server {cpu:5.0f} us of CPU per window"
        )


if __name__ == "__main__":
    main()
