"""``gazal teach``: reasoning examples from a teacher model, under a hard cap. A leaf that a fork may delete.

In: seed items and a server. Out: accepted examples with the answers and the spend behind them.
"""
