"""Training files without repeats, test items and faulty rows.

In: files of rows to train on and to test on. Out: kept rows, and ``report.json`` with each removal, its reason and
its match.
"""
