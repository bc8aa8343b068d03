"""The run's configuration: what there is to choose, and its documentation, in one place."""
