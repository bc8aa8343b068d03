"""Pretraining losses, and the task that runs them together.

`table.create_pretrain_task` is the entry; read base.py, features.py and pretrain.py in this order.
"""
