"""Helpers of the notebooks: starting a run, showing results, browsing samples, the reward lab.

In: a run folder or a notebook's parameters. Out: tables, figures and widgets to look at.
"""
