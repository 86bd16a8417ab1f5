"""``gazal plan``: what a recipe will need before it is started. A leaf that a fork may delete.

In: a recipe, a model's configuration and a price list. Out: memory per GPU, tokens, hours and cost.
"""
