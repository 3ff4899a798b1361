"""Scripts of the repository, run from its root as `python -m scripts.NAME`; not installed.

A real package, not a namespace: a distribution that installs a package named `scripts` would
otherwise hide this one.
"""
