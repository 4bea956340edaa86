"""The real tritonserver: started, asked, stopped, killed, and given things that are broken."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchscript_models import LINEAR, Linear, write_model

from builder.errors import ConfigError, ServerError
from builder.serving.client import connect, infer, statistics
from builder.serving.server import TritonServer

pytestmark = pytest.mark.e2e


def processes_with(text: str) -> list[str]:
    """Command lines of the living processes that hold `text`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_every_model_is_ready_and_equals_torch(server: TritonServer, linear: Linear) -> None:
    assert {s.name: s.state for s in server.model_states()} == {
        "linear": "READY",
        "named": "READY",
        "pipe": "READY",
    }
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    with torch.inference_mode():
        y, total = (t.numpy() for t in linear(torch.from_numpy(x)))
    client = connect(server.grpc_url)
    answer = infer(client, "linear", {"INPUT__0": x})
    np.testing.assert_allclose(answer["OUTPUT__0"], y, atol=1e-6)
    np.testing.assert_allclose(answer["OUTPUT__1"], total, atol=1e-6)
    np.testing.assert_allclose(infer(client, "pipe", {"x": x})["y"], y, atol=1e-6)
    # The config lists the arguments the other way round, and only one entry of the dict.
    a, b = np.float32([5, 7]), np.float32([1, 1])
    np.testing.assert_array_equal(infer(client, "named", {"b": b, "a": a})["difference"], [4, 6])


def test_requests_of_several_lengths_at_once_are_batched_and_right(
    server: TritonServer, linear: Linear
) -> None:
    client = connect(server.grpc_url)
    before = statistics(client, "linear")[0]

    def ask(seed: int) -> float:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(1, int(rng.integers(1, 4)), 3)).astype(np.float32)
        got = infer(client, "linear", {"INPUT__0": x}, outputs=["OUTPUT__0"])
        assert list(got) == ["OUTPUT__0"]
        with torch.inference_mode():
            want = linear(torch.from_numpy(x))[0].numpy()
        return float(np.abs(got["OUTPUT__0"] - want).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(64))) <= 1e-6
    after = statistics(client, "linear")[0]
    assert after.inferences - before.inferences == 64
    assert after.executions - before.executions < 64


def test_a_bad_request_in_a_batch_fails_alone(server: TritonServer) -> None:
    client = connect(server.grpc_url)

    def ask(value: float) -> str:
        x = np.full((1, 2, 3), value, np.float32)
        try:
            infer(client, "linear", {"INPUT__0": x})
        except ServerError as error:
            return str(error)
        return "fine"

    before = statistics(client, "linear")[0]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [1.0, 2.0, 3.0, 4e9, 5.0, 6.0, 7.0, 8.0]))
    after = statistics(client, "linear")[0]
    assert after.executions - before.executions < 8
    assert answers[:3] + answers[4:] == ["fine"] * 7
    assert "linear failed on INPUT__0 [1, 2, 3]" in answers[3]
    assert "x is too large" in answers[3]


def test_shapes_that_do_not_fit_are_in_the_message(server: TritonServer) -> None:
    client = connect(server.grpc_url)
    a, b = np.ones(3, np.float32), np.ones(4, np.float32)
    with pytest.raises(ServerError) as caught:
        infer(client, "named", {"a": a, "b": b})
    message = str(caught.value)
    assert "a [3], b [4]" in message
    assert "must match" in message
    assert infer(client, "named", {"a": a, "b": a})["difference"].shape == (3,)


def test_endpoints_answer(server: TritonServer) -> None:
    with urllib.request.urlopen(f"{server.http_url}/v2", timeout=5) as answer:
        assert json.load(answer)["name"].startswith("builder-")
    assert "nv_inference_request_success" in server.metrics()
    assert server.metrics_url is not None
    for url in (server.http_url, server.grpc_url, server.metrics_url):
        assert "127.0.0.1:" in url
    # Loopback means loopback: nothing listens on the other addresses.
    listening = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=False).stdout
    ours = [line for line in listening.splitlines() if f"pid={server.pid}," in line]
    assert all("127.0.0.1" in line for line in ours)


def test_a_port_in_use_is_explained_before_anything_is_loaded(
    server: TritonServer, repository: Path
) -> None:
    port = int(server.http_url.rpartition(":")[2])
    began = time.monotonic()
    with pytest.raises(ServerError) as caught:
        TritonServer([repository / "pytorch"], http_port=port).start()
    assert f"--http-port: port {port} is in use by another tritonserver (2." in str(caught.value)
    assert time.monotonic() - began < 2


def test_a_port_lost_while_models_load_is_explained(tmp_path: Path) -> None:
    # The port is taken between the check and the moment when the server listens.
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", 0))
        port = thief.getsockname()[1]
        server = TritonServer([tmp_path], grpc_port=port)
        original = server.arguments

        def arguments() -> list[str]:
            thief.listen()
            return original()

        server.arguments = arguments  # type: ignore[method-assign]
        with pytest.raises(ServerError) as caught:
            server.start()
    assert f"--grpc-port: port {port} is in use" in str(caught.value)
    assert not server.running


def test_what_failed_is_named_with_its_reason(
    tmp_path: Path, repository: Path, backend_dir: Path, linear: Linear
) -> None:
    good = write_model(tmp_path / "good", LINEAR, linear)
    truncated = write_model(tmp_path / "truncated", LINEAR)
    truncated.write_bytes(good.read_bytes()[:300])
    write_model(tmp_path / "absent", LINEAR)
    write_model(tmp_path / "garbled", 'backend: ["')
    write_model(tmp_path / "silent", 'backend: "pytorch"')
    write_model(tmp_path / "threads", LINEAR.replace('"1"', '"many"'), linear)
    with TritonServer([tmp_path], backend_directory=backend_dir, strict=False) as server:
        reasons = {s.name: s.reason for s in server.failures()}
        assert [s.name for s in server.model_states() if s.ready] == ["good"]
        assert "model.pt is no valid TorchScript file (300 bytes)" in reasons["truncated"]
        assert "there is no" in reasons["absent"]
        assert reasons["absent"].endswith("absent/1/model.pt")
        assert reasons["garbled"].startswith("config.pbtxt: 1:")
        assert "declares no input" in reasons["silent"]
        assert "INTRA_OP_THREAD_COUNT is no number: 'many'" in reasons["threads"]
        assert all(" At: " not in reason for reason in reasons.values())
    strict = TritonServer([tmp_path], backend_directory=backend_dir, load=["absent", "nowhere"])
    with pytest.raises(ServerError) as caught:
        strict.start()
    assert "2 models failed to load" in str(caught.value)
    assert "nowhere: model not found in any model repository" in str(caught.value)
    assert not strict.running


def test_a_server_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    server = TritonServer([tmp_path], timeout=0.0, host="localhost")
    with pytest.raises(ServerError, match="not ready after 0 s"):
        server.start()
    assert not server.running


def test_a_dead_server_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        TritonServer([tmp_path], extra_args=["--nonsense"]).start()
    message = str(caught.value)
    assert "exit status 1" in message
    assert "unrecognized option '--nonsense'" in message
    assert message.count("\n") < 6


def test_a_server_that_hangs_because_it_cannot_be_made_is_explained(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"did not start: .*libtritoncache_none\.so"):
        TritonServer([tmp_path], extra_args=["--cache-config=none,size=1000"]).start()
    assert time.monotonic() - began < 20


def test_repositories_and_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no such model repository"):
        TritonServer([tmp_path / "none"]).start()
    with pytest.raises(ConfigError, match="unknown log level"):
        TritonServer([tmp_path], log_level="loud")
    with pytest.raises(ConfigError, match="--host: '::1' is no IPv4 address"):
        TritonServer([tmp_path], host="::1")
    with pytest.raises(ConfigError, match="polling loads every model"):
        TritonServer([tmp_path], load=["a"], model_control="poll")


def test_an_ensemble_that_is_asked_for_brings_its_steps(
    repository: Path, backend_dir: Path
) -> None:
    groups = [repository / "pytorch", repository / "ensemble"]
    server = TritonServer(
        groups, backend_directory=backend_dir, load=["pipe"], metrics_port=None, log_level="info"
    )
    with server:
        assert {s.name for s in server.model_states() if s.ready} == {"linear", "pipe"}
        assert server.metrics_url is None
        pid, prefix = server.pid, f"{server._id}-"
        assert processes_with(prefix)  # the stub of the python backend names its memory
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not Path(f"/proc/{pid}").exists()
    assert not processes_with(server._id)
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))
    assert server.exit_status == 0
    assert "Started HTTPService" in server.log_text()


PARENT = """
import os, sys
from pathlib import Path
from builder.serving.server import TritonServer
backends, group = map(Path, sys.argv[1:])
server = TritonServer([group], backend_directory=backends, load=["named"]).start()
print(server._id, flush=True)
sys.stdin.read()
"""


def test_kill_9_of_the_parent_leaves_no_orphans(repository: Path, backend_dir: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(backend_dir), str(repository / "pytorch")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        name = parent.stdout.readline().strip()
        assert len(processes_with(name)) >= 3  # guard, server, and stub
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while processes_with(name) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_with(name)
    assert not list(Path("/dev/shm").glob(f"{name}*"))
