"""Any causal language model of transformers, trained on the next token.

Batches of evaluation carry the bytes of text behind each token, so that models with other tokenizers can be compared in
bits per byte. A window starts without a past: the first tokens of each block are predicted from little, the same for
every model.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lightsleeper.errors import UserError
from lightsleeper.metrics.choices import ChoiceMetrics
from lightsleeper.metrics.language import LanguageMetrics
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models import choice_scoring, hub
from lightsleeper.models.family import Batch, ExportGraph, read_model
from lightsleeper.models.hub import HubFamily
from lightsleeper.nn.optimizer import Schedule
from lightsleeper.nn.ranges import at_least

CATALOG = ("CausalLM",)

FLOAT_BYTES = 4


class CausalLM(HubFamily):
    """A causal language model of transformers: by hub name, local folder, GGUF file or config.

    ``net`` is the transformers network itself; run format ``transformers`` writes it as a folder that
    ``from_pretrained`` reads, tokenizer included.

    Args:
        pretrained: Hub name, local folder or GGUF file (dequantised to float32) of a causal language model. Give one of
            pretrained, config, init_from.
        revision: Branch, tag or commit of the hub name.
        gguf_file: Name of the GGUF file where the folder ``pretrained`` holds several.
        config: Fields of a transformers config, model_type among them (gpt2, llama, ...): random weights.
        init_from: Run or export folder of a finished CausalLM to start from.
        prompt_tokens: Tokens of the prompt whose prefill is timed. At most the context window.
        lr: Peak learning rate of AdamW.
        schedule: cosine to 2 % of ``lr``, or noam.
        warmup_steps: Steps until the peak.
        weight_decay: Decoupled weight decay of matrices; biases and norms have none.
        recompute: Compute what each block needs for its backward pass again instead of keeping it: less memory, more
            time. Clustered weights are then kept of one block at a time.
    """

    headline = ("test/bits_per_byte", "test/perplexity", "test/choices/accuracy")
    metrics: LanguageMetrics

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        gguf_file: str | None = None,
        config: dict[str, Any] | None = None,
        init_from: str | Path | None = None,
        prompt_tokens: int = 128,
        lr: float = 1e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 50,
        weight_decay: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__(lr, schedule, warmup_steps, weight_decay)
        hub.need_one(pretrained=pretrained, config=config, init_from=init_from)
        at_least(1, prompt_tokens=prompt_tokens)
        start = None if init_from is None else read_model(init_from, "CausalLM", "init_from")
        if pretrained is not None:
            self.net = hub.pretrained(AutoModelForCausalLM, pretrained, revision, gguf_file)
        else:
            fields = config or {} if start is None else start.init_args["config"]
            self.net = hub.created(AutoModelForCausalLM, fields)
        if start is not None:
            hub.load_weights(self, start)
        if recompute:
            if not self.net.supports_gradient_checkpointing:
                raise ValueError(f"recompute: transformers' {type(self.net).__name__} cannot; leave it out")
            # The first is its name in newer versions, which warn of the second.
            switch = getattr(self.net, "activation_checkpointing_enable", self.net.gradient_checkpointing_enable)
            switch({"use_reentrant": False})
        self.prompt_tokens = min(prompt_tokens, self.window or prompt_tokens)
        self.metrics, self.choices = LanguageMetrics(), ChoiceMetrics()
        # What a callback that traces the network sends through it.
        self.example_input_array = {"input_ids": torch.zeros(1, min(16, self.window or 16), dtype=torch.int64)}

    @property
    def text_config(self) -> Any:
        """The config of the language part, where a network has others beside it."""
        return self.net.config.get_text_config()

    @property
    def window(self) -> int | None:
        """Tokens of context that positions exist for; None: any number."""
        return getattr(self.text_config, "max_position_embeddings", None)

    def architecture(self) -> dict[str, Any]:
        return {"config": hub.plain_config(self.net.config), "prompt_tokens": self.prompt_tokens}

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens (B, T) to the logits (B, T, vocabulary) of the tokens that follow each, float32."""
        return self.net(input_ids=input_ids, use_cache=False).logits.float()

    def setup(self, stage: str) -> None:
        self.check_data(self.trainer.datamodule)  # type: ignore[attr-defined]

    def check_data(self, data: Any) -> None:
        """Refuse data that this network cannot read; raises UserError."""
        tokens, model_tokens = getattr(data, "vocab_size", None), int(self.text_config.vocab_size)
        if tokens is not None:
            hub.check_vocabulary(tokens, model_tokens)
        context = getattr(data, "context_tokens", None)
        if context is not None and self.window is not None and context > self.window:
            raise UserError(f"data.context_tokens is {context}, the model has positions for {self.window}.")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"])
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=choice_scoring.IGNORED)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def observe(self, batch: Batch) -> None:
        """Text in blocks, or multiple-choice items, which have ``answers``."""
        if "answers" in batch:
            nats, tokens = choice_scoring.log_likelihoods(self.net, batch), choice_scoring.scored_tokens(batch)
            told = (batch[name] for name in ("bytes", "item", "answers", "groups", "numbers"))
            self.choices.update(nats, tokens, *told)
            return
        targets = batch["targets"]
        losses = F.cross_entropy(
            self(batch["input_ids"]).mT, targets, ignore_index=choice_scoring.IGNORED, reduction="none"
        )
        documents = batch["documents"].masked_fill(targets == choice_scoring.IGNORED, -1)
        self.metrics.update(losses, documents, batch["bytes"])

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        return (self.choices if self.choices.seen else self.metrics).results(prefix, intervals=intervals)

    def test_details(self) -> dict[str, list[int]] | None:
        return self.choices.details() if self.choices.seen else None

    def context(self) -> dict[str, float | None]:
        """The window in tokens, and the bytes of a float32 KV cache that is full; None where there is no such cache."""
        return {"past_ms": None, "future_ms": 0.0, "past_tokens": self.window, "state_bytes": self._cache_bytes()}

    def _cache_bytes(self) -> int | None:
        config = self.text_config
        layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
        if not isinstance(layers, int) or not isinstance(heads, int) or self.window is None:
            return None
        size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads
        heads = getattr(config, "num_key_value_heads", None) or heads
        return 2 * layers * heads * size * self.window * FLOAT_BYTES

    def export_spec(self) -> list[ExportGraph]:
        """The prefill of one prompt: input_ids (1, T) to the logits (1, vocabulary) of the token that follows."""

        def prompt(seed: int, length: int | None = None) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            if length is None:
                length = int(torch.randint(2, max(self.prompt_tokens, 2) + 1, (), generator=generator))
            return {"input_ids": torch.randint(self.text_config.vocab_size, (1, length), generator=generator)}

        metadata = {
            "family": type(self).__name__,
            "model_type": self.net.config.model_type,
            "vocab_size": str(self.text_config.vocab_size),
            "context_tokens": str(self.window),
            "prompt_tokens": str(self.prompt_tokens),  # of the latency
        }
        return [
            ExportGraph(
                "model",
                Prefill(self.net),
                prompt,
                ["logits"],
                {"input_ids": {1: "tokens"}},
                metadata,
                bench=lambda ms: prompt(0, self.prompt_tokens),
                per="prompt",
            )
        ]


class Prefill(nn.Module):
    """A prompt (1, T) to the logits (1, vocabulary) of the token that follows it; the head sees that place only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.options = {"logits_to_keep": 1} if hub.takes(net, "logits_to_keep") else {}

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.net(input_ids=input_ids, use_cache=False, **self.options).logits[:, -1].float()
