"""What people see of a run: figures, tables, checked claims and the PDF.

In: the result files of a run, and ``paper/``. Out: ``figures/``, ``tables/``, ``paper.pdf``; no model is loaded.
"""
