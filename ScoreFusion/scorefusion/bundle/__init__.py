"""A model on disk: what it is, where it is found, how it is checked, imported, removed and written.

A bundle is a folder in the MONAI bundle layout: ``configs/metadata.json`` (with a ``scorefusion`` section),
``models/*.safetensors``, ``docs/README.md`` (the model card) and ``LICENSE``. Weights are never pickled; their SHA-256
is checked on every loading. Only `Bundle.load_state_dict` and `write_bundle` need torch.
"""

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.install import import_bundle, remove_bundle
from scorefusion.bundle.metadata import FORMAT_VERSION, validate_metadata
from scorefusion.bundle.store import BundleInfo, bundle_folders, find_bundle, list_bundles, user_models_folder
from scorefusion.bundle.write import write_bundle

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "BundleInfo",
    "bundle_folders",
    "find_bundle",
    "import_bundle",
    "list_bundles",
    "remove_bundle",
    "user_models_folder",
    "validate_metadata",
    "write_bundle",
]
