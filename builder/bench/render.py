"""Writing a report: data, Markdown, one HTML page and the picture for the README."""

from pathlib import Path

from builder.bench.compare import compare
from builder.bench.html import page
from builder.bench.markdown import markdown
from builder.bench.plots_overview import overview
from builder.bench.results import Report
from builder.files import write_atomic


def write_reports(report: Report, folder: Path, against: Report | None = None) -> list[Path]:
    """Write `report.json`, `report.md`, `report.html` and `throughput.svg` into a folder.

    The data comes first: whatever happens to the others, they can be made from it again.

    Args:
        against: An older report, changes to which are marked in Markdown and HTML.

    Returns:
        The files, in that order.

    Raises:
        BuilderError: A file cannot be written; one that was there before is untouched.
    """
    data = folder / "report.json"
    write_atomic(data, report.to_json().encode())
    comparison = None if against is None else compare(report, against)
    texts = {
        "report.md": markdown(report, comparison),
        "report.html": page(report, comparison),
        "throughput.svg": overview(report) + "\n",
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode(errors="replace"))
    return [data, *(folder / name for name in texts)]
