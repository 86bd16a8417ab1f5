"""Predictions on disk: the file of one benchmark, the folder of a model, and how its prompts were made. No torch.

In: items and replies, or a folder of Parquet files. Out: checked frames, ready to be scored.
"""
