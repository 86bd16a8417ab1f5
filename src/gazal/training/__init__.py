"""What a researcher opens first: the SFT and GRPO stages, rollouts, and the checks before them.

In: a recipe and the run's data. Out: ``sft/`` and ``grpo/`` with adapter, merged model and metrics.
"""
