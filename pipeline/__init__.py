"""Colonnade's pipeline: a dataset in, shards through scorers, parts out, each exactly once.

On the way of the data: footers, dataset, shards, layout, binding, reader, tensors, scoring,
parts, scorer. For the driver: fingerprint, plan, manifest (with records, journal, resume,
durable), verify. What travels between them: events, scorer_spec and wire.
"""
