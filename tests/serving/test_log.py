import subprocess
from pathlib import Path

import pytest

from builder.errors import RepositoryError
from builder.serving.log import LogFile, port_in_use


def test_the_tail_leaves_out_the_manual_and_the_missing_gpu(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "server.log")
    subprocess.run(
        ["/bin/cat"],
        input=(
            b"tritonserver: unrecognized option '--nonsense'\n"
            b"Usage: tritonserver [options]\n  --help\n\tPrint usage\n\nServer:\n"
            b"Error: Failed to initialize NVML\n"
            b'E1 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        ),
        stdout=log.open(),
        check=True,
    )
    assert log.tail() == "  tritonserver: unrecognized option '--nonsense'"
    log.close()
    assert "Usage" in (tmp_path / "logs" / "server.log").read_text()


def test_the_text_can_be_read_while_it_is_written_and_afterwards() -> None:
    log = LogFile(None)
    output = log.open()
    for word in ("one", "two"):
        subprocess.run(["/bin/echo", word], stdout=output, check=True)
        assert log.text().endswith(f"{word}\n")
    log.close()
    assert log.text() == "one\ntwo\n"
    log.open()
    assert log.text() == ""
    log.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    with pytest.raises(RepositoryError, match="writing the server's log failed"):
        LogFile(tmp_path / "logs" / "server.log").open()


def test_the_port_in_use_is_found() -> None:
    line = (
        "\"failed to start GRPC service: Unavailable - Socket '127.0.0.1:18000' already in use \""
    )
    assert port_in_use(line) == 18000
    assert port_in_use("all is well") is None
