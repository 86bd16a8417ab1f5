"""The plumbing of both stages, which a researcher never edits: arguments, checkpoints, processes, health, merge checks.

In: a TRL trainer and a run folder. Out: whole checkpoints, ``metrics.jsonl``, an adapter and merged weights that agree.
"""
