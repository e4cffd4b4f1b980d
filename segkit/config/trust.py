"""What a config may name: anything where a person composed it, few classes where it comes out of a file.

A config that was composed from the command line and the user's own conf folder may name any class. A config that comes
out of a checkpoint is data: its targets must be classes of an allowed module, and it may hold no interpolations.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkit.config.findings import ConfigError
from segkit.config.instantiate import locate, nodes

ALLOWED_MODULES = (
    "segkit.data.",
    "segkit.losses.",
    "segkit.metrics.",
    "segkit.models.",
    "segkit.predictors.",
    "albumentations.augmentations.blur.",
    "albumentations.augmentations.crops.",
    "albumentations.augmentations.dropout.",
    "albumentations.augmentations.geometric.",
    "albumentations.augmentations.pixel.",
    "albumentations.core.composition.",
    "torchmetrics.aggregation.",
    "torchmetrics.classification.",
    "torchmetrics.collections.",
    "torchmetrics.nominal.",
    "torchmetrics.regression.",
    "torchmetrics.segmentation.",
    "torchmetrics.wrappers.",
)
"""Where the classes named by a stored config must be defined; the module of the class itself counts.

Of the libraries those parts that compute and nothing else: torchmetrics' text, image and multimodal metrics load
models by name or path, and Albumentations' mixing and text transforms read pictures and fonts by path.
"""

REFUSED_MODULES = ("segkit.data.datasets.decoded_cache.", "segkit.data.workers.process.", "segkit.data.workers.pool.")
"""Those of our own that write files or change the process, and are no part of a config."""


def check_trusted(config: Any, key: str, trust: Sequence[str] = ()) -> None:
    """Refuse a stored config that names anything but classes of an allowed module. Raises ConfigError."""
    for text_key, text in _strings(config, key):
        if "${" in text:
            raise ConfigError(f"{text_key}: a stored config may hold no interpolation (found {text!r})")
    for node_key, node in nodes(config, key):
        name = str(node["_target_"])
        prefixes = (*ALLOWED_MODULES, *trust)
        refusal = (
            f"{node_key}._target_={name} in the stored config is not allowed. Allowed: classes of "
            f"{', '.join(p.rstrip('.') for p in prefixes)}. Add your own module with trust=[my_module.]"
        )
        # By name first: what is not allowed is not even imported.
        if not name.startswith(tuple({p.split(".")[0] + "." for p in prefixes})):
            raise ConfigError(refusal)
        target = locate(name, f"{node_key}._target_")
        home = f"{getattr(target, '__module__', '')}."
        if not inspect.isclass(target) or not home.startswith(prefixes) or home.startswith(REFUSED_MODULES):
            raise ConfigError(refusal)


def _strings(config: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(config, str):
        yield key, config
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from _strings(value, f"{key}.{name}")
    elif isinstance(config, Sequence):
        for index, value in enumerate(config):
            yield from _strings(value, f"{key}[{index}]")
