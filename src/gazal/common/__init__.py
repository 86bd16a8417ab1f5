"""The ground: errors in one line, files that are whole or absent, locks, the hub, servers, devices, paths.

In: what any room hands over. Out: the same, checked, or a :class:`~gazal.common.errors.GazalError`.
"""
