"""Kernels: the table of what there is (table.py, light) and the numba code behind each row."""
