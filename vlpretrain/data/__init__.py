"""From shards to batches: index, order, reader, decode, tokens, masks, collate, loader."""
