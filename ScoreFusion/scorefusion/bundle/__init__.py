"""A model on disk: what it is, where it is found, how it is checked, imported, removed and written.

A bundle is a folder in the MONAI bundle layout: ``configs/metadata.json`` (with a ``scorefusion`` section),
``models/*.safetensors``, ``docs/README.md`` (the model card) and ``LICENSE``. Weights are never pickled; their SHA-256
is checked on every loading. Only `Bundle.load_state_dict` and `write_bundle` need torch.
"""
