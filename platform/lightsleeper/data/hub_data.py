"""Hugging Face datasets by hub name or local path, and tokenizers: opened, or refused in one line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import cache_folder, gguf_parts

if TYPE_CHECKING:
    from datasets import Dataset

PART_NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def open_dataset(
    source: str,
    subset: str | None = None,
    revision: str | None = None,
    names: Mapping[str, Sequence[str]] = PART_NAMES,
) -> "dict[str, Dataset]":
    """The splits of a dataset by part (train, val, test; others are left out); one split alone is ``train``.

    ``source``: hub name, folder (of tables, of images by class, or written by ``save_to_disk``) or a table.
    ``names``: other parts, and what a split may be called that is one.
    Raises UserError where there is no such dataset, and for one that needs code of its own.
    """
    import datasets

    path = Path(source).expanduser()
    with _quiet(), _told(source):
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found: Any = datasets.load_from_disk(str(path))
        elif path.is_file():
            if path.suffix.lower() not in TABLES:
                raise UserError(f"{source}: expected a file of {', '.join(TABLES)}.")
            options = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
            found = _load(TABLES[path.suffix.lower()], data_files=str(path), **options)
        elif path.is_dir():
            found = _load(str(path))
        else:
            found = _load(source, name=subset, revision=revision)
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    if len(splits) == 1 and names is PART_NAMES:
        return {"train": next(iter(splits.values()))}
    parts = {part: splits[name] for part, called in names.items() for name in called if name in splits}
    if "train" not in parts and names is PART_NAMES:
        raise UserError(f"{source} has no split 'train'; it has {', '.join(splits)}.")
    return parts


def check_dataset(source: str) -> None:
    """Refuse a local path that is not there; a hub name is known only once it is asked for. Raises UserError."""
    path = Path(source).expanduser()
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"folder {source} is empty.")
    if not path.exists() and (source.startswith(("/", ".", "~")) or path.suffix.lower() in TABLES):
        raise UserError(f"{source} does not exist: expected a folder, a table or the name of a dataset on the hub.")


def need_column(data: "Dataset", column: str, source: str) -> None:
    """Raise UserError naming the nearest column."""
    if column not in data.column_names:
        raise UserError(f"{source} has no column '{column}'.{did_you_mean(column, data.column_names)}")


def open_tokenizer(source: str) -> Any:
    """The tokenizer of a hub name, folder or GGUF file. Raises UserError where there is none that tells offsets."""
    from transformers import AutoTokenizer

    folder, file = gguf_parts(source)
    if file is not None and not (Path(folder) / file).is_file():
        raise UserError(f"tokenizer: {source} does not exist.")
    if file is not None and find_spec("gguf") is None:
        raise UserError("tokenizer: a GGUF file needs the package gguf: pip install gguf")
    options = {} if file is None else {"gguf_file": file}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"tokenizer: cannot load '{source}': neither a local folder with a tokenizer nor reachable on the hub."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer: '{source}' cannot tell which text a token stands for; take a fast tokenizer.")
    tokenizer.model_max_length = int(1e30)  # documents are cut into blocks here
    return tokenizer


def open_processor(source: str) -> Any:
    """The image processor of a hub name or local folder, on Pillow. Raises UserError where there is none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"processor: cannot load '{source}': neither a local folder with an image processor nor reachable on the "
            "hub."
        ) from error


def _load(source: str, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(source, cache_dir=str(cache_folder("datasets")), **options)


@contextmanager
def _told(source: str) -> Iterator[None]:
    """What `datasets` raises for a dataset that it cannot open, as one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, OSError, ValueError, RuntimeError, ConnectionError) as error:
        text = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"cannot open the dataset '{source}': {text}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            datasets.utils.logging.enable_progress_bar()
