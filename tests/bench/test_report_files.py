"""The written report: parsed by somebody else's parsers."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builder.bench.html import page
from builder.bench.markdown import markdown, plain
from builder.bench.plots_overview import overview
from builder.bench.plots_svg import Axis, nice_step
from builder.bench.render import write_reports
from builder.bench.results import Problem, Report, StageShare, Usage, read_report
from builder.bench.terminal import print_report
from builder.errors import BuilderError
from tests.bench.report_data import case, report, rounds, run, usual

_SVG = "{http://www.w3.org/2000/svg}"
_EVIL = "<script>alert(1)</script>\"'&\x00\x1b[31m|`"


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags close."""

    _VOID = frozenset({"meta", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def full() -> Report:
    """With everything that a page can show."""
    sizes = {"1": 10, "4": 30}
    shares = (
        StageShare("m", 400, 100, 100.0, 50.0, 900.0, 20.0, 0, sizes),
        StageShare("part", 800, 300, 10.0, 5.0, 300.0, 2.0, 0, sizes),
        StageShare("other", 400, 100, 10.0, 5.0, 60.0, 2.0, 0, {"1": 100}),
    )
    used = Usage(1.5, 0.5, 0.2, 300.0, 1500.0, 42.0, 800.0)
    runs = [
        *rounds("native", [300.0, 100.0, 200.0], concurrency=1, stages=shares, usage=used),
        *rounds("native", [900.0, 1000.0, 1100.0], stages=shares, usage=used, stable=False),
        *rounds("python", [100.0, 90.0, 110.0], stages=(shares[0],)),
        *rounds("trt", [2000.0, 2100.0]),
        *rounds("floor", [2000.0, 2100.0]),
        *rounds("bank", [2000.0, 2100.0]),
    ]
    return report(runs, problems=usual().problems)


def evil() -> Report:
    """Every text is hostile."""
    names = case(_EVIL, title=_EVIL, unit=_EVIL, request=_EVIL)
    share = (StageShare(_EVIL, 5, 5, 1.0, 1.0, 1.0, 1.0, 0, {"2": 5}),)
    runs = [run(v, n, case=_EVIL, stages=share) for v in ("native", _EVIL) for n in (1, 2)]
    where = {_EVIL: _EVIL}
    problem = Problem(_EVIL, _EVIL, _EVIL)
    return report(
        runs, cases=(names,), machine=where, versions=where, settings=where, problems=(problem,),
        created=_EVIL,
    )  # fmt: skip


REPORTS = {
    "empty": report(cases=()),
    "nothing measured": report(problems=usual().problems),
    "all failed": report([run(per_second=0.0), run("python", per_second=0.0)]),
    "one round": report([run(), run("python", per_second=10.0)]),
    "no twin": report([run(), run(round=2)]),
    "usual": usual(),
    "full": full(),
    "evil": evil(),
}


@pytest.fixture(params=REPORTS)
def any_report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]


class TestPage:
    def test_is_well_formed_and_needs_nothing_else(self, any_report: Report) -> None:
        text = page(any_report)
        parsed = Page(text)
        assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
        for name, value in parsed.attributes:
            if name in ("href", "src", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:")), value
            assert not name.startswith("on")
        styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        assert len(styles) == 1
        assert not re.search(r"url\(|@import|http", styles[0])

    def test_pictures_are_well_formed_and_described(self) -> None:
        pictures = re.findall(r"<svg.*?</svg>", page(full()), re.DOTALL)
        assert len(pictures) >= 6
        for picture in pictures:
            root = ElementTree.fromstring(picture)
            assert root.get("role") == "img"
            assert root.get("aria-label") == root.findtext("title")
            assert root.findtext("desc")

    def test_tooltips_name_the_figures(self) -> None:
        tips = [
            title.text or ""
            for picture in re.findall(r"<svg.*?</svg>", page(usual()), re.DOTALL)
            for mark in ElementTree.fromstring(picture)
            for title in mark.findall("title")
        ]
        assert "native, concurrency 4: 1,000/s (900 to 1,100 in 3 rounds)" in tips
        assert "python, concurrency 4: p99 80.0 ms (80.0 to 80.0 in 3 rounds)" in tips

    def test_shows_ratios_costs_stages_and_problems(self) -> None:
        text = Page(page(full())).text
        for expected in (
            "10.0\N{MULTIPLICATION SIGN} (9.00 to 11.1)",  # 900/100, 1000/90, 1100/110
            "1.46 GiB",
            "m itself",
            "the server died",
            "see its log",
            "3 of 15 runs",
            "native at concurrency 4",
        ):
            assert expected in text, expected

    def test_batch_sizes_of_a_pipeline_are_those_of_its_slowest_model(self) -> None:
        text = Page(page(full())).text
        # part runs 10 and 30 times with 1 and 4 inferences; other, 100 times alone, is no matter.
        assert "native at 4: part: 75.0 % of executions with 4 inferences" in text

    def test_raw_data_can_be_downloaded(self) -> None:
        href = dict(Page(page(full())).attributes)["download"]
        assert href == "report-2026-01-02T03-04-05Z.json"
        data = re.search(r'href="data:application/json;base64,([^"]+)"', page(full()))
        assert data is not None
        assert json.loads(base64.b64decode(data[1])) == json.loads(full().to_json())

    def test_hostile_text_stays_text(self) -> None:
        text = page(evil())
        assert "<script" not in text
        parsed = Page(text)
        assert "<script>alert(1)</script>\"'&" in parsed.text
        for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
            ElementTree.fromstring(picture)

    def test_an_older_report_is_compared(self) -> None:
        before = report(rounds("native", [2000.0, 2100.0, 2200.0]))
        from builder.bench.compare import compare

        text = Page(page(usual(), compare(usual(), before))).text
        assert "Against the report of" in text
        assert "Regressions: 1" in text
        assert "-52.4 %" in text  # 1000 against 2100
        assert "Only in this report" in text


class TestOverview:
    def test_is_a_file_of_its_own(self, any_report: Report) -> None:
        root = ElementTree.fromstring(overview(any_report))
        assert root.tag == f"{_SVG}svg"
        assert root.find(f"{_SVG}style") is not None

    def test_bars_are_as_tall_as_the_medians(self) -> None:
        root = ElementTree.fromstring(overview(usual()))
        heights = {}
        for bar in root.iter(f"{_SVG}rect"):
            tip = bar.findtext(f"{_SVG}title")
            if tip:
                heights[tip.partition(":")[0]] = float(bar.get("height", 0))
        native = heights["one, native, concurrency 4"]
        assert native / heights["one, python, concurrency 4"] == pytest.approx(10.0, rel=0.02)
        assert native / heights["one, native, concurrency 1"] == pytest.approx(5.0, rel=0.02)

    def test_says_the_ratio(self) -> None:
        texts = [t.text for t in ElementTree.fromstring(overview(usual())).iter(f"{_SVG}text")]
        assert "10\N{MULTIPLICATION SIGN}" in texts
        assert "5.0\N{MULTIPLICATION SIGN}" in texts


class TestMarkdown:
    def test_table_of_medians_and_ratios(self) -> None:
        rows = [line for line in markdown(usual()).splitlines() if line.startswith("| `one`")]
        assert [cell.strip() for cell in rows[0].split("|")[2:-1]] == [
            "1",
            "200",
            "40.0",
            "5.00\N{MULTIPLICATION SIGN} (4.00 to 6.00)",
            "20.0",
            "20.0",
        ]
        assert len(rows) == 2

    def test_columns_agree(self, any_report: Report) -> None:
        text = markdown(any_report)
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1
        assert "<script" not in text.replace("\\<", "")

    def test_names_machine_versions_and_problems(self) -> None:
        text = markdown(usual())
        for expected in ("cpu A CPU", "tritonserver 2.51.0", "rounds 3", "- two: the server died"):
            assert expected in text

    def test_plain_text_is_one_line_without_markup(self) -> None:
        assert plain("a\n b|c_<d>") == r"a b\|c\_\<d\>"


class TestTerminal:
    def test_piped_lines_are_whole_and_plain(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        print_report(full(), usual())
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\N{HORIZONTAL ELLIPSIS}" not in out
        assert not any(line != line.rstrip() for line in out.splitlines())
        row = next(line for line in out.splitlines() if "1,000~" in line)
        assert row.split()[:5] == ["4", "native", "1,000~", "900", "to"]
        assert "problem two: the server died" in out

    def test_any_report_prints(
        self, any_report: Report, capsys: pytest.CaptureFixture[str]
    ) -> None:
        print_report(any_report)
        print_report(any_report, usual())
        assert "machine:" in capsys.readouterr().out

    def test_markup_in_names_is_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_report(report(cases=(case("[red]x[/nonsense]"),)))
        assert "[red]x[/nonsense]" in capsys.readouterr().out

    def test_control_characters_do_not_reach_the_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        print_report(evil(), usual())
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", capsys.readouterr().out)

    def test_regressions_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        before = report(rounds("native", [2000.0, 2100.0, 2200.0]))
        print_report(usual(), before)
        out = capsys.readouterr().out
        assert "regression one, native at concurrency 4: throughput -52.4 %" in out


class TestFiles:
    def test_four_files_and_the_data_reads_back(self, any_report: Report, tmp_path: Path) -> None:
        files = write_reports(any_report, tmp_path / "new")
        assert [file.name for file in files] == [
            "report.json",
            "report.md",
            "report.html",
            "throughput.svg",
        ]
        assert read_report(files[0]) == any_report
        assert sorted(tmp_path.joinpath("new").iterdir()) == sorted(files)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BuilderError, match="file"):
            write_reports(usual(), tmp_path / "file")

    def test_text_that_is_no_unicode_does_not_end_it(self, tmp_path: Path) -> None:
        odd = report([run()], problems=(Problem("x", "bad \udcff byte"),))
        html = write_reports(odd, tmp_path)[2].read_text(encoding="utf-8")
        assert "bad \N{REPLACEMENT CHARACTER} byte" in html


class TestAxes:
    def test_linear_axis_starts_at_zero_and_holds_every_value(self) -> None:
        axis = Axis([3.0, 70.0], 200.0, 0.0)
        assert axis.at(0) == 200.0
        assert 0 < axis.at(70.0) < axis.at(3.0) < 200.0
        assert axis.ticks[0] == 0
        assert 3 <= len(axis.ticks) <= 8

    def test_logarithmic_axis_makes_equal_ratios_equally_long(self) -> None:
        axis = Axis([1.0, 100.0], 0.0, 100.0, log=True)
        assert axis.at(10) - axis.at(1) == pytest.approx(axis.at(100) - axis.at(10))

    @pytest.mark.parametrize("values", [[], [0.0], [1e-9], [1e9], [5.0, float("nan")]])
    def test_odd_values_do_not_break_it(self, values: list[float]) -> None:
        for log in (False, True):
            positive = [v for v in values if v > 0]
            axis = Axis(positive if log else values, 0.0, 1.0, log=log)
            assert axis.ticks is not None
            assert 0.0 <= axis.at(max(positive, default=0.0)) <= 1.0

    def test_nice_steps(self) -> None:
        assert [nice_step(v) for v in (0.7, 1, 1.2, 3, 6, 23)] == [1, 1, 2, 5, 10, 50]
