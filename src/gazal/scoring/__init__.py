"""Scores from predictions alone: files in, files out, no model.

In: a folder of predictions with its items. Out: ``scores.json`` and its companions, with intervals, tests and exports.
"""
