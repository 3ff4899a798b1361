"""Colonnade's pipeline: a dataset in, shards through scorers, parts out, each exactly once.

On the way of the data: search, dictionaries, footers, dataset, shards, layout, binding, reader,
tensors, scoring, parts, scorer. For the driver: fingerprint, plan, manifest (with records, journal,
lock, resume, durable), verify. What travels between them: events, scorer_spec and wire.
"""
