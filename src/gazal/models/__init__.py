"""Models as folders and in memory: loading, identity, chat rendering, generation, likelihood, tensors.

In: a folder, a hub id or ``embedded``. Out: safetensors models, token lists and log-likelihoods.
"""
