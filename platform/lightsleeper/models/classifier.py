"""Any image or text classifier of transformers, trained with cross-entropy.

Which of the two it is, the network's type decides. Its head has one output per class: the data says how many.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from lightsleeper.errors import UserError
from lightsleeper.metrics.classes import ClassMetrics
from lightsleeper.models import hub
from lightsleeper.models.family import Batch, ExportGraph, read_model
from lightsleeper.models.hub import HubFamily
from lightsleeper.nn.optimizer import Schedule
from lightsleeper.nn.ranges import at_least, share

CATALOG = ("Classifier",)

INPUTS = ("input_ids", "attention_mask", "pixel_values")


class Classifier(HubFamily):
    """An image or text classifier of transformers: by hub name, local folder or config.

    Args:
        pretrained: Hub name or local folder, with or without a head. Give one of pretrained, config, init_from.
        revision: Branch, tag or commit of the hub name.
        config: Fields of a transformers config, model_type among them (bert, vit, resnet, ...): random weights.
        init_from: Run or export folder of a finished Classifier to start from.
        classes: Outputs of the head. With ``pretrained``, a head of another size gives way to a random one.
        label_smoothing: Share of the target spread evenly over the classes.
        sample_size: Tokens of a text, or pixels of an image's side, whose latency is measured.
        lr: Peak learning rate of AdamW.
        schedule: cosine to 2 % of ``lr``, or noam.
        warmup_steps: Steps until the peak.
        weight_decay: Decoupled weight decay of matrices and kernels; biases and norms have none.
    """

    headline = ("test/accuracy", "test/macro_accuracy")
    metrics: ClassMetrics

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        config: dict[str, Any] | None = None,
        init_from: str | Path | None = None,
        classes: int = 2,
        label_smoothing: float = 0.0,
        sample_size: int = 128,
        lr: float = 1e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr, schedule, warmup_steps, weight_decay)
        hub.need_one(pretrained=pretrained, config=config, init_from=init_from)
        at_least(2, classes=classes)
        at_least(1, sample_size=sample_size)
        share(label_smoothing=label_smoothing, below_one=True)
        self.label_smoothing, self.sample_size = label_smoothing, sample_size
        start = None if init_from is None else read_model(init_from, "Classifier", "init_from")
        if pretrained is not None:
            auto = _auto(hub.model_type(pretrained, revision))
            self.net = hub.pretrained(auto, pretrained, revision, num_labels=classes, ignore_mismatched_sizes=True)
        else:
            fields = dict(config or {}, num_labels=classes) if start is None else start.init_args["config"]
            self.net = hub.created(_auto(fields.get("model_type")), fields)
        if start is not None:
            hub.load_weights(self, start)
        self.metrics = ClassMetrics()
        # What a callback that traces the network sends through it.
        (example,) = self.export_spec()[0].sample(0).values()
        self.example_input_array = {"pixel_values" if self.reads_images else "input_ids": example}

    @property
    def reads_images(self) -> bool:
        return _auto(self.net.config.model_type) is AutoModelForImageClassification

    def architecture(self) -> dict[str, Any]:
        config = hub.plain_config(self.net.config)
        return {"config": config, "classes": self.net.config.num_labels, "sample_size": self.sample_size}

    def forward(self, **inputs: Tensor) -> Tensor:
        """input_ids and attention_mask (B, T), or pixel_values (B, C, H, W), to logits (B, classes), float32."""
        return self.net(**inputs).logits.float()

    def setup(self, stage: str) -> None:
        """Refuse data that this network cannot read, and learn the names of its classes; raises UserError."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        config = self.net.config
        names = list(getattr(data, "classes", ()))
        if names and len(names) != config.num_labels:
            raise UserError(f"the data has {len(names)} classes, the model {config.num_labels}: model.classes.")
        if names:
            self._name_classes(names)
        tokens = getattr(data, "vocab_size", None)
        if self.reads_images != (tokens is None) and data is not None:
            kind = "images" if self.reads_images else "texts"
            raise UserError(f"a {config.model_type} classifies {kind}, which {type(data).__name__} does not give.")
        if self.reads_images or tokens is None:
            return
        hub.check_vocabulary(tokens, config.vocab_size)
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and data.context_tokens > longest:
            raise UserError(f"data.max_length is {data.context_tokens}, the model has positions for {longest}.")
        if config.pad_token_id is None:  # decoders look for the last token that is none
            config.pad_token_id = data.pad_token_id

    @property
    def class_names(self) -> list[str]:
        """In the order of the outputs."""
        config: Any = self.net.config
        return [str(config.id2label[index]) for index in range(config.num_labels)]

    def _name_classes(self, names: list[str]) -> None:
        self.net.config.id2label = dict(enumerate(names))
        self.net.config.label2id = {name: index for index, name in enumerate(names)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        padding = getattr(self.net.config, "pad_token_id", None)
        checkpoint["classifier"] = {"classes": self.class_names, "pad_token_id": padding}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        known = checkpoint["classifier"]  # learned from the data, and part of what ships
        self._name_classes(known["classes"])
        if known["pad_token_id"] is not None:
            self.net.config.pad_token_id = known["pad_token_id"]

    def _logits(self, batch: Batch) -> Tensor:
        return self(**{name: batch[name] for name in INPUTS if name in batch})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self._logits(batch)
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def observe(self, batch: Batch) -> None:
        logits = self._logits(batch)
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        self.metrics.update(losses, logits.argmax(-1), batch["labels"], batch["groups"])

    def export_spec(self) -> list[ExportGraph]:
        """One unpadded text (1, T), or one image (1, C, H, W), to the logits (1, classes)."""
        config: Any = self.net.config
        classes = "\n".join(self.class_names)
        metadata = {"family": type(self).__name__, "model_type": config.model_type, "classes": classes}
        if self.reads_images:
            shape = (1, getattr(config, "num_channels", 3), *_sides(config, self.sample_size))

            def image(seed: int) -> dict[str, Tensor]:
                return {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(seed))}

            return [
                ExportGraph("model", Logits(self.net, "pixel_values"), image, ["logits"], {}, metadata, per="image")
            ]
        longest = min(self.sample_size, getattr(config, "max_position_embeddings", None) or self.sample_size)

        def text(seed: int, length: int | None = None) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            if length is None:
                length = int(torch.randint(2, max(longest, 2) + 1, (), generator=generator))
            ids = torch.randint(1, config.vocab_size, (1, length), generator=generator)
            if config.pad_token_id is not None:  # decoders classify at the last token that is no padding
                ids[ids == config.pad_token_id] = 1 if config.pad_token_id != 1 else 2
            return {"input_ids": ids}

        return [
            ExportGraph(
                "model",
                Logits(self.net, "input_ids"),
                text,
                ["logits"],
                {"input_ids": {1: "tokens"}},
                metadata,
                bench=lambda ms: text(0, longest),
                per="text",
            )
        ]


class Logits(nn.Module):
    """One input of a network to its logits, as a graph of plain tensors."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, value: Tensor) -> Tensor:
        return self.net(**{self.name: value}).logits.float()


def _auto(model_type: str | None) -> Any:
    """The factory for a type of network; texts where it is no image model."""
    images = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return AutoModelForImageClassification if model_type in images else AutoModelForSequenceClassification


def _sides(config: Any, otherwise: int) -> tuple[int, int]:
    """Height and width that the network is built for."""
    size = getattr(config, "image_size", None) or otherwise
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)
