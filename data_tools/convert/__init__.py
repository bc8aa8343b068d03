"""From data sets as they are downloaded to shards: a file for each family of formats."""
