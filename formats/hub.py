"""Streams data sets of the Hugging Face hub, row by row; needs the datasets library, and the network."""

import re
from collections.abc import Iterable


def stream(name: str, split: str) -> Iterable[dict]:
    """The rows of a data set. name: owner/name, with @REVISION and :CONFIGURATION behind it where it needs them. ValueError if
    the library is missing."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"hf:{name} needs the datasets library; run pip install datasets") from None
    found = re.fullmatch(r"([^@:]+)(?:@([^:]+))?(?::(.+))?", name)
    if not found:
        raise ValueError(f"hf:{name}: use hf:owner/name, with @REVISION and :CONFIGURATION behind it where they are needed")
    path, revision, configuration = found.groups()
    more = ({"revision": revision} if revision else {}) | ({"name": configuration} if configuration else {})
    return datasets.load_dataset(path, split=split, streaming=True, **more)
