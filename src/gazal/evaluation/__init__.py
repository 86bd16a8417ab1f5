"""Evaluation: which models are prompted on which benchmarks, kill-safe predictions, progress.

In: a recipe, models and benchmarks. Out: one predictions file per model and benchmark, then scores.
"""
