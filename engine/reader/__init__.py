"""ONNX in: `load(path)` and `graph_of(model)` give a Graph, or say why they cannot.

This package and engine/reference.py are all that knows protobuf. Files in order of use: files.py
(bytes -> ModelProto), functions.py (inlined), microsoft.py, microsoft_attention.py, quantised.py
and spelling.py (onnxruntime's own operators and those of 8 bits in ONNX's), tensors.py (constants,
mapped when they lie outside), nodes.py, choosing.py (the outputs that are wanted), shapes.py and
shape_numbers.py (types, and which dimension counts rows), soundness.py and parameters.py (nothing
contradicts them), rebatch.py (a batch of one is freed), assemble.py (all of it together),
branches.py (a graph read again with branches in place of their Ifs).
"""

from engine.reader.assemble import graph_of, load
from engine.reader.branches import with_branches

__all__ = ["graph_of", "load", "with_branches"]
