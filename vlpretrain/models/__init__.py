"""Vision tower, text tower, fusion, heads and the whole model. Never sees a run's configuration."""
