"""The domain, the one room to replace in a fork: HPO, doses and scores, items made from them, and the packaged base.

In: a count and a seed. Out: items with reasoning traces, and the verdict on each claim of a trace.
Items and verdicts come from the same source.
"""
