"""Samples and batches: records, OpenHeads."""
