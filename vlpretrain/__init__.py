"""Vision-language pretraining on webdataset shards with DeepSpeed."""

__version__ = "0.1.0"
