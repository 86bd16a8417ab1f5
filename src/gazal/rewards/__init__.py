"""The four rewards of GRPO as pure functions, in the shape that TRL calls, and the red team that attacks them.

In: a completion, its item and a :class:`~gazal.recipe.rewards.RewardConfig`. Out: four scores and their weighted sum.
"""
