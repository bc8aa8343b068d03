"""The report of a run: one offline HTML file made from the files of a run folder."""

from vlpretrain.report.page import write_report

__all__ = ["write_report"]
