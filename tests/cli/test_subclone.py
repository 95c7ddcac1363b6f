import json

import numpy as np
import pytest
import torch
import transformers as T


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    config = T.LlamaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                           num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64)  # fmt: skip
    T.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_smaller_model_is_written_and_loads(cli, parent, tmp_path):
    out = tmp_path / "small"
    done = cli("subclone", str(parent), "--width", "16", "--depth", "2", "--out", str(out), "--batches", "2")
    assert done.code == 0, done.err
    assert "blocks 0 3 of the parent" in done.out
    small = T.AutoModelForCausalLM.from_pretrained(out)
    config = small.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.num_key_value_heads, config.intermediate_size, config.head_dim) == (1, 24, 8)
    large = T.AutoModelForCausalLM.from_pretrained(parent)
    ours, theirs = small.model.embed_tokens.weight, large.model.embed_tokens.weight
    assert all((theirs == column[:, None]).all(0).any() for column in ours.T)
    assert not list(tmp_path.glob(".small*"))


def test_text_of_ones_own_and_json(cli, parent, tmp_path):
    (tmp_path / "text").mkdir()
    for number in range(3):
        (tmp_path / "text" / f"{number}.txt").write_text("some words to read\n" * 40)
    out = tmp_path / "small"
    done = cli("subclone", str(parent), "--width", "16", "--data", str(tmp_path / "text"), "--out", str(out),
               "--batches", "1", "--batch-size", "2", "--scaling", "measured", "--json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["blocks"] == [0, 1, 2, 3]
    assert record == json.loads((out / "subclone.json").read_text())


def test_the_same_command_writes_the_same_weights(cli, parent, tmp_path):
    for name in ("a", "b"):
        assert cli("subclone", str(parent), "--depth", "2", "--out", str(tmp_path / name), "--batches", "2").code == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_vision_model_is_calibrated_on_images(cli, tmp_path):
    from PIL import Image

    config = T.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                         image_size=8, patch_size=4)  # fmt: skip
    T.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    words = ["subclone", str(tmp_path / "vit"), "--width", "8", "--out", str(tmp_path / "small")]
    refused = cli(*words)
    assert refused.code == 2
    assert "calibrated on images" in refused.err
    done = cli(*words, "--data", str(tmp_path / "images"))
    assert done.code == 0, done.err
    assert T.AutoModelForImageClassification.from_pretrained(tmp_path / "small").config.hidden_size == 8


def test_the_parents_tokenizer_reads_the_text_and_comes_along(cli, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "import": 1, "self": 2, "return": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "parent"
    T.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    config = T.GPT2Config(vocab_size=4, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    T.GPT2LMHeadModel(config).save_pretrained(folder)
    done = cli("subclone", str(folder), "--width", "8", "--out", str(tmp_path / "small"))
    assert done.code == 0, done.err
    assert T.AutoTokenizer.from_pretrained(tmp_path / "small")("import self")["input_ids"] == [1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "64"], "width 64 is above the parent's 32: subcloning only shrinks."),
        (["--width", "20"], "width 20 is not a whole number of heads"),
        (["--heads", "3"], "3 heads cannot be drawn from 2 groups"),
        (["--depth", "9"], "depth 9 is above the parent's 4"),
        (["--depth", "0"], "expected a whole number of at least 1, got '0'"),
        (["--order", "best"], "invalid choice: 'best'"),
        (["--data", "nowhere"], "--data nowhere is no file, folder or data set with a 'text' column"),
        (["--data", "EMPTY"], "the folder has no .txt"),
        (["--data", "SHORT"], "3 tokens are less than one sample of 64"),
        (["--out", "HERE"], "exists already: name a new folder."),
    ],
)
def test_mistakes_are_one_line(cli, parent, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("abc")
    places = {"EMPTY": tmp_path / "empty", "SHORT": tmp_path / "short.txt", "HERE": tmp_path}
    out = [] if "--out" in words else ["--out", str(tmp_path / "small")]
    failed = cli("subclone", str(parent), *out, *(str(places.get(word, word)) for word in words))
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert not (tmp_path / "small").exists()


def test_a_parent_that_cannot_be_read_or_tokenised_is_named(cli, tmp_path):
    failed = cli("subclone", str(tmp_path / "none"), "--out", str(tmp_path / "small"))
    assert failed.code == 2
    assert "cannot be read" in failed.err
    config = T.GPT2Config(
        vocab_size=100, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    T.GPT2LMHeadModel(config).save_pretrained(tmp_path / "bare")
    failed = cli("subclone", str(tmp_path / "bare"), "--width", "8", "--out", str(tmp_path / "small"))
    assert failed.code == 2
    assert "has no tokenizer and 100 tokens" in failed.err
    words = ["--width", "8", "--order", "first", "--out", str(tmp_path / "small")]
    assert cli("subclone", str(tmp_path / "bare"), *words).code == 0
    assert torch.isfinite(T.GPT2LMHeadModel.from_pretrained(tmp_path / "small").lm_head.weight).all()
