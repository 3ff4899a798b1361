"""Datasets in, parts out: shards, bindings, the scorer and the commit protocol."""
