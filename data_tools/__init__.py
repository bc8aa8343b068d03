"""Tools that make, look at and check shards. The library never imports them."""
