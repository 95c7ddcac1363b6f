"""Finding the transformers model in a module, reading a trained one, and what to feed it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightsleeper_callbacks.subclone_wiring import weights_below_base

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def find_transformer(module: nn.Module) -> "PreTrainedModel":
    """The one transformers model in ``module``. Raises ValueError where there is none or more than one."""
    from transformers import PreTrainedModel

    found: dict[str, PreTrainedModel] = {}
    for name, layer in module.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") or not outer for outer in found)
        if isinstance(layer, PreTrainedModel) and not inside:
            found[name] = layer
    if not found:
        raise ValueError(f"{type(module).__name__} holds no transformers model to fill (as built by its constructor)")
    if len(found) > 1:
        names = ", ".join(f"'{name}' ({type(layer).__name__})" for name, layer in found.items())
        raise ValueError(f"{type(module).__name__} holds several transformers models: {names}; expected one")
    return next(iter(found.values()))


def parent_config(parent: str | Path | nn.Module, gguf_file: str | None = None) -> "PreTrainedConfig":
    """The config of a hub name, folder or module. Raises ValueError where there is none."""
    if isinstance(parent, nn.Module):
        return find_transformer(parent).config
    from transformers import AutoConfig

    with _readable(parent):
        return AutoConfig.from_pretrained(**_place(parent, gguf_file))


def load_parent(
    parent: str | Path | nn.Module, kind: "type[PreTrainedModel] | None" = None, gguf_file: str | None = None
) -> tuple["PreTrainedModel", tuple[str, ...]]:
    """The trained model, in float32 where it is loaded, and names below its base of weights that its files lack.

    ``kind``: the class to load as; None takes the one its config names, for a GGUF file, which names none, a causal
    language model. Raises ValueError where it cannot be read.
    """
    if isinstance(parent, nn.Module):
        return find_transformer(parent), ()
    import transformers

    place = _place(parent, gguf_file)
    loader: Any = kind
    if loader is None:
        otherwise = "AutoModelForCausalLM" if "gguf_file" in place else "AutoModel"
        names = parent_config(parent, gguf_file).architectures or [otherwise]
        loader = getattr(transformers, names[0], transformers.AutoModel)
    with _readable(parent):
        model, loading = loader.from_pretrained(**place, dtype=torch.float32, output_loading_info=True)
    lacking = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    unread = {id(value) for name, value in model.named_parameters(remove_duplicate=False) if name in lacking}
    return model, tuple(name for name, value in weights_below_base(model).items() if id(value) in unread)


def model_inputs(batch: Any) -> Mapping[str, Tensor]:
    """Keyword arguments of a transformers model for a batch: a mapping, a tensor, or a tuple that starts with one.

    Whole numbers are token ids, other tensors are images. Raises ValueError for anything else.
    """
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):  # BatchEncoding is a UserDict
        return {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    if isinstance(batch, (tuple, list)) and batch:
        return model_inputs(batch[0])
    if isinstance(batch, Tensor):
        return {"pixel_values" if batch.is_floating_point() else "input_ids": batch}
    raise ValueError(
        f"a training batch is a {type(batch).__name__}; expected a dict with input_ids or pixel_values, or a tuple "
        "that starts with such a tensor (or override inputs())"
    )


def _place(parent: str | Path, gguf_file: str | None) -> dict[str, Any]:
    """Where transformers finds it: a hub name or folder, and a GGUF file, also where that is all that is given."""
    path = Path(parent)
    if gguf_file is None and path.suffix == ".gguf":
        parent, gguf_file = path.parent, path.name
    if gguf_file is None and path.is_dir() and not (path / "config.json").is_file():
        files = list(path.glob("*.gguf"))
        gguf_file = files[0].name if len(files) == 1 else None
    place = {"pretrained_model_name_or_path": parent}
    return place if gguf_file is None else {**place, "gguf_file": gguf_file}


@contextmanager
def _readable(parent: str | Path) -> Iterator[None]:
    """One line for what cannot be read, and none of the loader's own tables and bars."""
    from transformers import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"parent '{parent}' cannot be read: {reason}") from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
