"""Pages for a browser: a report in one file, and a search page that a local server shows."""

from ._report import report_html, write_report
from ._server import create_app, run_app

__all__ = ["create_app", "report_html", "run_app", "write_report"]
