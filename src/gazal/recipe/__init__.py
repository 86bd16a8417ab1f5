"""Every value of a run, each with its source: sections as strict models, and loading apart from them.

In: YAML and overrides. Out: a validated :class:`~gazal.recipe.recipe.Recipe`. A recipe changes values, never code.
"""
