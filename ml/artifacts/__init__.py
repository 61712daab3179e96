"""Stored models: snapshots and checkpoints, deltas between them, and bundles that predict from raw log rows."""
