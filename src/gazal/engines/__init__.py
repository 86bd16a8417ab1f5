"""What completes prompts: a transformers model in this process, vLLM, or an OpenAI-compatible server.

In: prompts and sampling settings. Out: batches of :class:`~gazal.engines.reply.Reply`, the same from every engine.
"""
