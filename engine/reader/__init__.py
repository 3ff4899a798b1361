"""ONNX in: `load(path)` and `graph_of(model)` give a Graph, or say why they cannot.

This package and engine/reference.py are all that knows protobuf. Files in order of use: files.py
(bytes -> ModelProto), tensors.py (constants, mapped when they lie outside), nodes.py, functions.py
(inlined), shapes.py (what has rows), assemble.py (all of it together).
"""

from engine.reader.assemble import graph_of, load

__all__ = ["graph_of", "load"]
