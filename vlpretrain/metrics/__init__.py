"""Figures of quality: pure functions of scores and truths."""
