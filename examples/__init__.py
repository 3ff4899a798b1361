"""Data, models and the scripts that made them; `python -m examples.x` runs one from the root."""
