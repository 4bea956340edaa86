from pathlib import Path

from builder.serving.log import LogFile, port_in_use


def test_the_tail_leaves_out_the_manual_and_the_missing_gpu(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "server.log")
    with log.opened() as file:
        file.write(
            b"tritonserver: unrecognized option '--nonsense'\n"
            b"Usage: tritonserver [options]\n  --help\n\tPrint usage\n\nServer:\n"
            b"Error: Failed to initialize NVML\n"
            b'E1 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        )
    assert log.tail() == "  tritonserver: unrecognized option '--nonsense'"
    log.close()
    assert "Usage" in (tmp_path / "logs" / "server.log").read_text()


def test_a_temporary_log_goes_away_but_its_text_stays() -> None:
    log = LogFile(None)
    with log.opened() as file:
        file.write(b"hello\n")
        path = Path(file.name)
    assert path.exists()
    log.close()
    assert not path.exists()
    assert log.text() == "hello\n"


def test_the_port_in_use_is_found() -> None:
    line = (
        "\"failed to start GRPC service: Unavailable - Socket '127.0.0.1:18000' already in use \""
    )
    assert port_in_use(line) == 18000
    assert port_in_use("all is well") is None
