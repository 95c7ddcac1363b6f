"""Transformers families at their smallest: configs, data, recipes, and versions that can be stopped."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper.models.classifier import Classifier
from tiny_family import maybe_stop
from torch import Tensor

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 257,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 257,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
WORDS = ("def", "return", "if", "else", "for", "while", "import", "class", "self", "value", "name", "list", "text")


class StoppableLM(CausalLM):
    """Obeys TINY_STOP."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        maybe_stop("step", self.trainer.global_step)
        return super().training_step(batch, batch_idx)


class StoppableClassifier(Classifier):
    """Obeys TINY_STOP."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        maybe_stop("step", self.trainer.global_step)
        return super().training_step(batch, batch_idx)


def write_texts(folder: Path, files: int = 30, words: int = 60, seed: int = 0) -> Path:
    """Files of random words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for number in range(files):
        (folder / f"{number:02d}.txt").write_text(" ".join(rng.choices(WORDS, k=words)) + f"\n{number} é\n")
    return folder


def write_table(path: Path, rows: int = 90, seed: int = 0, kind: str = "csv") -> Path:
    """Texts whose first word is their label."""
    rng = random.Random(seed)
    table = []
    for number in range(rows):
        label = rng.choice(["for", "if", "try"])
        table.append({"text": f"{label} {' '.join(rng.choices(WORDS, k=rng.randint(1, 8)))} {number}", "label": label})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(table)
        else:
            file.writelines(json.dumps(row) + "\n" for row in table)
    return path


def write_images(folder: Path, each: int = 20) -> Path:
    """A folder of images per class: light ones and dark ones."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(rng.normal(level, 20, (18, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def recipe(path: Path, model: dict[str, Any], data: dict[str, Any], **sections: Any) -> Path:
    """Write a recipe that trains for two epochs of three steps and goes through all stages."""
    config: dict[str, Any] = {
        "seed_everything": 3,
        "model": model,
        "data": data,
        "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu", "log_every_n_steps": 1},
        "run": {"monitor": "val/loss", "mode": "min", "parity_inputs": 3, "threads": 1},
        "tracking": {"mode": "disabled"},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    path.write_text("# A recipe for tests.\n" + yaml.safe_dump(config))
    return path


def lm_recipe(path: Path, name: str = "tiny_hosts.StoppableLM", **sections: Any) -> Path:
    """A language model on `texts/`."""
    if not Path("texts").exists():
        write_texts(Path("texts"))
    return recipe(
        path,
        {"class_path": name, "init_args": {"config": LLAMA, "warmup_steps": 1, "prompt_tokens": 16}},
        {"class_path": "LocalText", "init_args": {"path": "texts", "context_tokens": 32, "batch_size": 4}},
        **sections,
    )


def classifier_recipe(path: Path, name: str = "tiny_hosts.StoppableClassifier", **sections: Any) -> Path:
    """A classifier of `table.csv`."""
    if not Path("table.csv").exists():
        write_table(Path("table.csv"))
    return recipe(
        path,
        {"class_path": name, "init_args": {"config": BERT, "classes": 3, "warmup_steps": 1, "sample_size": 16}},
        {"class_path": "LabelledText", "init_args": {"dataset": "table.csv", "max_length": 24, "batch_size": 8}},
        **sections,
    )
