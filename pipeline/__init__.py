"""Colonnade's pipeline: a dataset in, shards through scorers, parts out, each exactly once.

Reading order: dataset, shards, binding, reader, tensors, parts, scorer on the way of the data;
fingerprint, manifest, plan, verify for the driver; events and wire for what travels.
"""
