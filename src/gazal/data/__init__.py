"""The data of a run: sources and benchmarks as items, splits without leaks, and a card for each.

In: the recipe's ``data`` section. Out: ``data/*.parquet`` with a report of what was taken and what was set aside.
"""
