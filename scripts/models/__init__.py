"""Models as ONNX graphs, written out by hand: what benches and tests are tried on."""
