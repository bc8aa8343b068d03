"""Shards to batches: index, order, reader, decoding, masks, loader."""
