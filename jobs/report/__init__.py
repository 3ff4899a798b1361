"""The page beside the manifest: what a run looked like over time, and where time went.

history.py keeps what happened within a bound; page.py draws it, with charts.py.
"""
