"""The library for a notebook: adapt, predict, evaluate and compare in one process, without servers.

Nothing is written but below temporary folders, unless `Adapted.save` is called.
"""
