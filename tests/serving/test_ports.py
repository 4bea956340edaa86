import socket

from builder.serving.ports import HeldPorts, why_unusable


def test_a_port_that_somebody_listens_on_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert why_unusable("127.0.0.1", port) == "is in use by another process"
    assert why_unusable("127.0.0.1", port) is None


def test_an_address_of_another_machine_is_named() -> None:
    reason = why_unusable("192.0.2.1", 0)
    assert reason is not None
    assert "192.0.2.1 is no address of this machine" in reason


def test_held_ports_go_to_nobody_but_who_may_reuse_them() -> None:
    with HeldPorts("127.0.0.1", 3) as held:
        assert len(set(held.numbers)) == 3
        for port in held.numbers:
            # As tritonserver does, and as create_server does: with SO_REUSEADDR.
            with socket.create_server(("127.0.0.1", port)):
                pass
            with socket.socket() as other:
                assert other.connect_ex(("127.0.0.1", port)) != 0
            with socket.socket() as stranger:
                try:
                    stranger.bind(("127.0.0.1", port))
                except OSError:
                    continue
                raise AssertionError("a plain bind got a held port")
