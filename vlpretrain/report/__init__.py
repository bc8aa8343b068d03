"""Reports: one offline HTML file made from the files of a run folder, or of a chain of them."""

from vlpretrain.report.chain import find_chain
from vlpretrain.report.page import write_report, write_story

__all__ = ["find_chain", "write_report", "write_story"]
