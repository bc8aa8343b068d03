"""From shards to batches: index, order, reader, decode, transforms, tokens, masks, collate, loader."""
