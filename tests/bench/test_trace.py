"""Traces: a file whose times are known, and `builder profile` on the real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from builder.bench.timeline import table, timeline
from builder.bench.trace import collect, median_trace, parse_traces, trace_file
from builder.cli.profile import command, golden_inputs
from builder.config import Config
from builder.errors import BuilderError, ServerError, UsageError
from builder.serving.client import connect, infer
from builder.serving.launch import make_server
from builder.serving.server import TritonServer

_SVG = "{http://www.w3.org/2000/svg}"
_MS = 1_000_000


def entry(number: int, model: str, parent: int | None = None, **stamps: float) -> list[object]:
    """What the server writes about one model; times in milliseconds after an odd zero."""
    head: dict[str, object] = {"id": number, "model_name": model, "model_version": 1}
    if parent is not None:
        head["parent_id"] = parent
    zero = 5_000_000_000
    times = [{"name": name, "ns": zero + round(at * _MS)} for name, at in stamps.items()]
    return [head, *({"id": number, "timestamps": [time]} for time in times)]


def worked(number: int, model: str, parent: int, start: float) -> list[object]:
    """A stage that waits 1 ms, gathers for 2, computes for 4 and writes for 0.5."""
    return entry(
        number,
        model,
        parent,
        REQUEST_START=start,
        QUEUE_START=start,
        COMPUTE_START=start + 1,
        COMPUTE_INPUT_END=start + 3,
        COMPUTE_OUTPUT_START=start + 7,
        COMPUTE_END=start + 7.5,
        REQUEST_END=start + 99,
    )


def pipeline(first: int = 1, at: float = 0.0, end: float = 20.0) -> str:
    """Two stages side by side, 1 and 2 ms after the request; the server writes leaves first."""
    parts = [
        *worked(first + 2, "late", first, at + 2),
        *worked(first + 1, "early", first, at + 1),
        *entry(
            first,
            "whole",
            REQUEST_START=at,
            QUEUE_START=at + 0.1,
            INFER_RESPONSE_COMPLETE=at + end,
            REQUEST_END=at + 120,
        ),
    ]
    return json.dumps(parts)


class TestParse:
    def test_times_and_order(self) -> None:
        [trace] = parse_traces([pipeline()])
        assert [(s.model, s.parent, s.depth) for s in trace.spans] == [
            ("whole", "", 0),
            ("early", "whole", 1),
            ("late", "whole", 1),
        ]
        late = trace.stages[1]
        assert late.start_ms == pytest.approx(2.0)
        assert (late.queue_ms, late.input_ms) == pytest.approx((1.0, 2.0))
        assert (late.compute_ms, late.output_ms) == pytest.approx((4.0, 0.5))
        assert late.end_ms == pytest.approx(9.5)

    def test_time_between_stages_counts_overlaps_once(self) -> None:
        [trace] = parse_traces([pipeline()])
        assert trace.total_ms == pytest.approx(20.0)
        assert trace.between_ms == pytest.approx(20.0 - 8.5)  # busy from 1 to 9.5

    def test_requests_in_several_files_are_told_apart(self) -> None:
        traces = parse_traces([pipeline(10, 500.0, 30.0), pipeline(1, 0.0, 10.0)])
        assert [round(t.total_ms) for t in traces] == [10, 30]
        assert [len(t.stages) for t in traces] == [2, 2]

    def test_median_request(self) -> None:
        texts = [pipeline(1 + 10 * n, 200.0 * n, end) for n, end in enumerate((30.0, 10.0, 20.0))]
        assert median_trace(parse_traces(texts)).total_ms == pytest.approx(20.0)

    def test_a_stage_that_did_not_compute_was_cached(self) -> None:
        text = json.dumps(
            [
                *entry(1, "whole", REQUEST_START=0, REQUEST_END=3),
                *entry(2, "a", 1, REQUEST_START=1, QUEUE_START=1, REQUEST_END=2),
            ]
        )
        [trace] = parse_traces([text])
        assert [span.cached for span in trace.spans] == [False, True]

    def test_calls_of_a_python_model_are_nested(self) -> None:
        text = json.dumps(
            [
                *worked(3, "inner", 2, 1.5),
                *worked(2, "outer", 1, 1),
                *entry(1, "whole", REQUEST_START=0, REQUEST_END=10),
            ]
        )
        [trace] = parse_traces([text])
        assert [(s.model, s.depth) for s in trace.stages] == [("outer", 1), ("inner", 2)]

    @pytest.mark.parametrize(
        "text", ["", "[{", "{}x", "[1]", '[{"id": "x"}]', '[{"timestamps": []}]', "3"]
    )
    def test_damage_is_named(self, text: str) -> None:
        with pytest.raises(ServerError, match="no trace"):
            parse_traces([text])

    def test_a_request_without_a_start_is_left_out(self) -> None:
        assert parse_traces([json.dumps(entry(1, "whole", REQUEST_END=3))]) == []


class TestTimeline:
    def test_bars_stand_where_the_times_are(self) -> None:
        [trace] = parse_traces([pipeline()])
        root = ElementTree.fromstring(timeline(trace))
        bars = {r.findtext(f"{_SVG}title"): r for r in root.iter(f"{_SVG}rect")}
        compute, queue = bars["late: compute 4.00 ms"], bars["late: queue 1.00 ms"]
        width = float(compute.get("width", 0))
        assert width / float(queue.get("width", 0)) == pytest.approx(4.0, rel=0.02)
        shift = float(compute.get("x", 0)) - float(queue.get("x", 0))
        assert shift == pytest.approx(width * 3 / 4, rel=0.02)

    def test_names_are_escaped(self) -> None:
        text = json.dumps(entry(1, "<b>&\x00", REQUEST_START=0, REQUEST_END=3))
        root = ElementTree.fromstring(timeline(parse_traces([text])[0]))
        assert any("<b>&" in (t.text or "") for t in root.iter(f"{_SVG}text"))

    def test_rows_can_be_json(self) -> None:
        rows = table(parse_traces([pipeline()])[0])
        assert json.loads(json.dumps(rows))[2]["queue_ms"] == 1.0


class TestWrongNames:
    def test_a_single_model_is_no_pipeline(self, config: Config) -> None:
        (config.repository / "onnx" / "small").mkdir(parents=True)
        (config.repository / "ensemble" / "small_pipeline").mkdir(parents=True)
        with pytest.raises(UsageError, match=r"single model \(onnx\)") as caught:
            golden_inputs(config, "small")
        assert caught.value.hint is not None
        assert "small_pipeline" in caught.value.hint
        with pytest.raises(UsageError, match="did you mean small_pipeline"):
            golden_inputs(config, "small_pipelin")

    def test_nothing_is_built(self, config: Config) -> None:
        with pytest.raises(UsageError, match="no such pipeline"):
            golden_inputs(config, "../etc")

    def test_a_golden_request_that_is_gone(self, config: Config) -> None:
        (config.repository / "ensemble" / "x" / "1").mkdir(parents=True)
        with pytest.raises(BuilderError, match=r"golden.npz.*cannot be read"):
            golden_inputs(config, "x")


@pytest.fixture(scope="module")
def traced(
    built: Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonServer, Path]]:
    """A running server that may write traces."""
    file = tmp_path_factory.mktemp("traces") / "trace"
    server, _ = make_server(
        built.replace("server", response_cache_mib=0), models=["anomaly_pipeline"], free_ports=True
    )
    server.extra_args += (f"--trace-config=triton,file={file}", "--trace-config=level=OFF")
    with server:
        yield server, file


def steps(config: Config, name: str) -> list[str]:
    """The models of an ensemble, as its published configuration names them."""
    text = (config.repository / "ensemble" / name / "config.pbtxt").read_text()
    return sorted(
        line.split('"')[1] for line in text.splitlines() if line.strip().startswith("model_name:")
    )


@pytest.mark.e2e
class TestRealServer:
    @pytest.mark.parametrize("name", ["anomaly_pipeline", "flux_schnell"])
    def test_every_step_of_the_pipeline_is_seen(
        self, built: Config, name: str, tmp_path: Path
    ) -> None:
        picture = tmp_path / "line.svg"
        answer = CliRunner().invoke(
            command,
            [name, "--requests", "3", "--json", "-o", str(picture)],
            obj=built,
            catch_exceptions=False,
        )
        found = json.loads(answer.stdout)
        spans = found["spans"]
        assert spans[0]["stage"] == name
        assert sorted(span["stage"] for span in spans[1:]) == steps(built, name)
        assert all(span["inside"] == name for span in spans[1:])
        assert all(0 <= s["start_ms"] < s["end_ms"] <= found["total_ms"] for s in spans)
        assert all(span["compute_ms"] > 0 for span in spans[1:])
        assert len(found["requests_ms"]) == 3
        assert found["total_ms"] == sorted(found["requests_ms"])[1]
        ElementTree.fromstring(picture.read_text())

    def test_a_running_server_is_traced_and_left_as_it_was(
        self, built: Config, traced: tuple[TritonServer, Path], tmp_path: Path
    ) -> None:
        server, file = traced
        client = connect(server.grpc_url)
        assert trace_file(client, where="server") == file
        before = str(client.get_trace_settings("anomaly_pipeline"))
        answer = CliRunner().invoke(
            command,
            ["anomaly_pipeline", "--url", server.grpc_url, "-o", str(tmp_path / "x.svg")],
            obj=built,
            catch_exceptions=False,
        )
        assert answer.exit_code == 0
        assert "median of 11 requests" in answer.stdout
        assert str(client.get_trace_settings("anomaly_pipeline")) == before
        written = set(file.parent.iterdir())
        infer(client, "anomaly_pipeline", golden_inputs(built, "anomaly_pipeline"))
        assert set(file.parent.iterdir()) == written
        client.close()

    def test_old_files_do_not_count(self, built: Config, traced: tuple[TritonServer, Path]) -> None:
        server, file = traced
        file.with_name("trace.9999").write_text("an older trace, half written")
        client = connect(server.grpc_url)
        inputs = golden_inputs(built, "anomaly_pipeline")
        found = collect(
            client,
            "anomaly_pipeline",
            lambda: infer(client, "anomaly_pipeline", inputs),
            count=2,
            file=file,
            where="server",
        )
        client.close()
        assert len(found) == 2

    def test_a_server_without_a_trace_file_says_so(self, built: Config) -> None:
        server, _ = make_server(built, models=["anomaly_pipeline"], free_ports=True)
        with server:
            client = connect(server.grpc_url)
            with pytest.raises(ServerError, match="without a trace file") as caught:
                trace_file(client, where=server.grpc_url)
            assert caught.value.hint is not None
            assert "--trace-config" in caught.value.hint
            client.close()

    def test_a_server_that_dies_half_way_is_an_error(self, built: Config, tmp_path: Path) -> None:
        server, _ = make_server(built, models=["anomaly_pipeline"], free_ports=True)
        server.extra_args += (f"--trace-config=triton,file={tmp_path / 't'}",)
        with server:
            client = connect(server.grpc_url)
            inputs = golden_inputs(built, "anomaly_pipeline")

            def send() -> None:
                infer(client, "anomaly_pipeline", inputs)
                server.stop()

            with pytest.raises(ServerError, match="no server answers"):
                collect(
                    client, "anomaly_pipeline", send, count=3, file=tmp_path / "t", where="server"
                )
            client.close()

    def test_no_server_at_the_url(self, built: Config) -> None:
        with pytest.raises(ServerError, match="no server answers"):
            CliRunner().invoke(
                command,
                ["anomaly_pipeline", "--url", "127.0.0.1:1"],
                obj=built,
                catch_exceptions=False,
            )
