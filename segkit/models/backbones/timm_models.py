"""Building timm models by name: local or fetched weights, any image size, clear errors at once."""

from __future__ import annotations

import difflib
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from timm.models import (
    get_deprecated_models,
    get_pretrained_cfg,
    load_state_dict,
    resolve_pretrained_cfg,
    split_model_name_tag,
)
from torch import nn

from segkit.contracts import UserError
from segkit.models.layers.normalization import Statistics

CONNECT_SECONDS = 5
WEIGHT_SOURCES = frozenset({"file", "url", "state_dict", "hf_hub_id"})
"""Keys of timm's `pretrained_cfg_overlay` that say where weights come from."""


class UnfitError(UserError):
    """timm knows the model, but cannot build it as a backbone with these arguments."""


def build(
    name: str,
    make: Callable[..., nn.Module],
    *,
    pretrained: bool,
    weights: str | None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """What `make` gives, called with the `timm.create_model` arguments for the weights and a free image size.

    Args:
        name: the model, as timm knows it.
        make: hands its keyword arguments on to `timm.create_model`; the model's own name is not among them.
        pretrained: load timm's weights.
        weights: local file to load instead.
        options: what `make` was given of the user's, whose `pretrained_cfg_overlay` adds to that for the weights.

    Raises:
        UnfitError: the model does not take the arguments.
        UserError: timm does not know the model; its weights are neither in
            the cache nor to be fetched; the file `weights` cannot be read or does not fit.
    """
    _check_name(name)
    arguments: dict[str, Any] = {"pretrained": pretrained or weights is not None}
    overlay = dict((options or {}).get("pretrained_cfg_overlay") or {})
    if weights is not None:
        # Without classes on either side timm is strict: a file that does not fit cannot pass for one.
        overlay |= {"state_dict": _read_weights(weights, name), "num_classes": 0}
    elif pretrained and not overlay.keys() & WEIGHT_SOURCES and (file := _cached_or_fetchable(name)) is not None:
        overlay["file"] = file
    if overlay:
        arguments["pretrained_cfg_overlay"] = overlay
    try:
        model = _make_freely(name, make, arguments)
    except TypeError as error:
        raise UnfitError(
            f"backbone.name={name} does not take what model.output_stride, model.options or "
            f"backbone.options give it: {error}"
        ) from error
    except (RuntimeError, AttributeError, AssertionError, ValueError, OSError) as error:
        if weights is not None and isinstance(error, RuntimeError):
            raise UserError(f"backbone.weights={weights} does not fit backbone.name={name}: {error}") from error
        if pretrained and isinstance(error, OSError):
            raise cannot_fetch(name, error) from error
        raise UnfitError(f"backbone.name={name} cannot be built as a backbone here: {error!r}") from error
    for module in model.modules():
        # timm keeps a copy of the weights it was given, which every copy of the model would carry along.
        getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return model


def weights_statistics(
    name: str,
    pretrained: bool = False,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    **_: Any,
) -> Statistics | None:
    """What the images were normalised with that the weights of timm's model `name` learnt from; None without weights.

    Those of a local file count as timm's own of that name: a tag (`name.tag`) picks others than timm's first.
    """
    options = options or {}
    if not (pretrained or weights is not None or options.get("checkpoint_path")):
        return None
    _check_name(name)
    # Under an old name timm builds the model of another.
    architecture, tag = split_model_name_tag(get_deprecated_models().get(name) or name)
    chosen = options.get("pretrained_cfg") or tag
    config = resolve_pretrained_cfg(architecture, chosen, options.get("pretrained_cfg_overlay"))
    return Statistics(tuple(config.mean), tuple(config.std))


def _make_freely(name: str, make: Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    config = get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        # Families of models have their own word for taking any image size, or none.
        for freedom in ("dynamic_img_size", "strict_img_size"):
            try:
                return make(**arguments, **{freedom: freedom == "dynamic_img_size"})
            except TypeError:
                continue
    return make(**arguments)


def _check_name(name: str) -> None:
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        close = close or timm.list_models(f"*{architecture}*")[:5]
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise UserError(f"backbone.name={name!r} is not a model of timm{hint} (all: timm.list_models())")
    tags = [split_model_name_tag(entry)[1] for entry in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UserError(f"backbone.name={name!r}: timm has no weights {tag!r}; allowed: {', '.join(tags)}")


def _read_weights(weights: str, name: str) -> dict[str, Any]:
    if not Path(weights).is_file():
        raise UserError(f"backbone.weights={weights}: no such file")
    refuse_compressed(weights)
    try:
        state = load_state_dict(weights, weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(
            f"backbone.weights={weights} cannot be read as tensors by name ({type(error).__name__}); "
            "allowed: a .safetensors file, or a state dict saved by torch.save"
        ) from error
    config = get_pretrained_cfg(name)
    classifier = config.classifier if config is not None else None
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return {key: value for key, value in state.items() if not key.startswith(tuple(f"{n}." for n in names))}


def refuse_compressed(weights: str) -> None:
    """Raise UserError for a zip file with compressed parts, which PyTorch never writes: they could fill the memory."""
    try:
        with zipfile.ZipFile(weights) as parts:
            is_compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # safetensors, or what the reader of zip files refuses too
    if is_compressed:
        raise UserError(f"backbone.weights={weights} is compressed; allowed: a file that torch.save has written")


def _cached_or_fetchable(name: str) -> str | None:
    """Path of the weights if they are in the local cache; None if timm can fetch them."""
    config = get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"backbone.pretrained=true, but timm has no weights for {name}; set backbone.pretrained=false")
    if config.hf_hub_id:
        file_name = config.hf_hub_filename or "model.safetensors"
        cached = try_to_load_from_cache(config.hf_hub_id, file_name)
        if isinstance(cached, str):
            return cached
        url = hf_hub_url(config.hf_hub_id, file_name)
    else:
        url = str(config.url)
    try:
        # timm would retry for most of a minute before it gave up.
        if config.hf_hub_id:
            get_hf_file_metadata(url, timeout=CONNECT_SECONDS)
        else:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS):
                pass
    except Exception as error:  # the kinds differ with every version of the HTTP client underneath
        raise cannot_fetch(name, error) from error
    return None


def cannot_fetch(name: str, error: Exception) -> UserError:
    """What to tell the user whose `name` has weights that could not be fetched."""
    return UserError(
        f"backbone.pretrained=true, but the weights of {name} cannot be fetched "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}). Either set "
        "backbone.pretrained=false; or give a local file, backbone.weights=<file>; or fetch them on a "
        "machine with a network, copy its Hugging Face cache here and set HF_HOME to it"
    )
