"""A question with its key: the schema, every reader and writer of files of questions, and how a model is shown one.

In: JSON lines, JSON or Parquet. Out: :class:`~gazal.items.schema.Item` and prompts.
"""
