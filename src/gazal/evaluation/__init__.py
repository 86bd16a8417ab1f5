"""Evaluation: prompt models on benchmarks, save predictions so that a kill loses little, and show progress.

In: a recipe, models and benchmarks. Out: one predictions file per model and benchmark, then scores.
"""
