"""The report: results of runs as one HTML file that needs no network."""

from pymultiling.results.report.page import write_own_report, write_report
from pymultiling.results.report.run_folder import Results, read_results

__all__ = ["Results", "read_results", "write_own_report", "write_report"]
