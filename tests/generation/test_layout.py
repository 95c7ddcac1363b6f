import pytest
import tiny_prefill as tiny
import torch
import transformers as T
from lightsleeper.errors import UserError
from lightsleeper.generation.layout import LayerShape, inspect, last_layer, link_bytes

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_model_that_keeps_keys_and_values_of_earlier_tokens_is_taken(name):
    layout = inspect(tiny.MODELS[name]())
    assert any(layout)


def test_the_layout_holds_heads_widths_and_windows():
    grouped = inspect(tiny.llama())
    assert grouped == (LayerShape(2, 8, 2, 8, torch.float32, None),) * 3
    assert [shape.window for shape in inspect(tiny.gemma3())] == [6, None, 6]
    latent = inspect(tiny.deepseek())[0]
    assert (latent.key_heads, latent.key_width, latent.value_width) == (1, 16, 8)


def test_layers_that_use_others_keys_hand_over_nothing():
    layout = inspect(tiny.gemma3n())
    assert layout[2:] == (None, None)
    assert last_layer(layout) == 1


def test_only_the_last_window_of_a_prefix_is_sent():
    layout = inspect(tiny.gemma3())
    assert link_bytes(layout, 4) == 3 * 4 * 32 * 4
    assert link_bytes(layout, 100, rows=2) == 2 * (5 + 100 + 5) * 32 * 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: T.T5ForConditionalGeneration(T.T5Config(vocab_size=40, d_model=32, d_ff=48, num_layers=1)),
         "T5ForConditionalGeneration .t5. is an encoder-decoder"),
        (lambda: T.BertLMHeadModel(T.BertConfig(**SMALL, intermediate_size=48)), "depend on later tokens"),
        (lambda: T.MambaForCausalLM(T.MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, state_size=4)),
         "layer 0 keeps a LinearAttentionLayer"),
        (lambda: T.Lfm2ForCausalLM(T.Lfm2Config(**SMALL, num_key_value_heads=2, intermediate_size=48,
                                                layer_types=["full_attention", "conv"])), "layer 1 keeps a Linear"),
        (lambda: T.OpenAIGPTLMHeadModel(T.OpenAIGPTConfig(vocab_size=40, n_embd=32, n_layer=1, n_head=4)),
         "put nothing into the cache"),
    ],
    ids=["encoder-decoder", "bidirectional", "mamba", "convolution", "no cache"],
)  # fmt: skip
def test_a_model_that_a_chain_would_get_wrong_is_refused_by_name(model, message):
    with pytest.raises(UserError, match=message):
        inspect(model().eval())


def test_experts_with_a_capacity_are_refused_by_name():
    model = tiny.MODELS["mixtral"]()
    model.config.expert_capacity = 4
    with pytest.raises(UserError, match=r"experts have a capacity \(expert_capacity\)"):
        inspect(model)


def test_something_carried_beside_the_cache_is_noticed():
    model = tiny.llama()
    inner = model.model.layers[0].register_forward_hook(lambda block, inputs, output: output + output.shape[1])
    with pytest.raises(UserError, match="differ when the prompt comes in two parts"):
        inspect(model)
    inner.remove()


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        inspect(tiny.llama().train())
