import json
from pathlib import Path

import pytest

RECIPE = """\
# A tiny language model.
model:
  class_path: CausalLM
  init_args:
    config: {model_type: llama, vocab_size: 64, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4,
             num_key_value_heads: 2, intermediate_size: 48, max_position_embeddings: 128,
             bos_token_id: 62, eos_token_id: 63}
    prompt_tokens: 48
data: {class_path: LocalText}
"""
FEW = ("--repeats", "2", "--warm-up", "0", "--new-tokens", "3")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def test_every_method_reads_the_prompt_and_a_picture_shows_the_chain(cli, tiny: Path):
    done = cli("ttft", "tiny.yaml", "--ranks", "2", "--split", "30,18", *FEW, "--json", "out.json")
    assert done.code == 0, done.err
    (result,) = json.loads(Path("out.json").read_text())
    methods = result["methods"]
    assert set(methods) == {"chain", "one", "chunked", "gather", "gather-skip"}
    assert len({tuple(found["first_token"]) for found in methods.values()}) == 1
    # keys and values of 30 tokens, two layers of two heads of 8, float32; a gather sends 24 from each side
    assert methods["chain"]["link_bytes"] == {"0->1": 2 * 30 * 2 * 8 * 4 * 2}
    assert methods["gather"]["link_bytes"] == {"0->all": 2 * 24 * 2 * 8 * 4 * 2, "1->all": 2 * 24 * 2 * 8 * 4 * 2}
    assert len(methods["chain"]["ttft_s"]) == 2
    assert all(0 <= share <= 1 for found in methods.values() for share in found["wait_shares"])
    assert methods["gather"]["bound"] > methods["gather-skip"]["bound"] > 1
    assert len(result["continuation"]) == 3
    assert result["continuation"][0] == methods["chain"]["first_token"][0]
    assert result["decode_tokens_per_s"] > 0
    assert Path("ttft.png").read_bytes().startswith(b"\x89PNG")
    assert "48 tokens as 30+18" in done.out
    assert "float32, 2 processes with 1 thread(s), gloo" in done.out


def test_a_searched_split_is_kept_and_predicts_other_lengths(cli, tiny: Path):
    chain = ("--methods", "chain", *FEW, "--table", "splits.json")
    done = cli("ttft", "tiny.yaml", "--split", "searched", *chain, "--tokens", "40", "80")
    assert done.code == 0, done.err
    table = json.loads(Path("splits.json").read_text())
    assert [row["tokens"] for row in table["splits"]] == [40, 80]
    assert table["conditions"]["ranks"] == 2
    done = cli("ttft", "tiny.yaml", "--split", "predicted", *chain, "--tokens", "60", "--json", "out.json")
    assert done.code == 0, done.err
    split = json.loads(Path("out.json").read_text())[0]["split"]
    shares = sorted(row["split"][0] / row["tokens"] for row in table["splits"])
    assert shares[0] - 0.02 <= split[0] / 60 <= shares[1] + 0.02
    other = cli("ttft", "tiny.yaml", "--split", "predicted", *chain, "--threads", "2")
    assert other.code == 2
    assert "made under other conditions: threads is '2', the table's '1'" in other.err


def test_a_prompt_shorter_than_the_ranks_leaves_some_out(cli, tiny: Path):
    done = cli("ttft", "tiny.yaml", "--ranks", "3", "--tokens", "2", *FEW, "--json", "out.json")
    assert done.code == 0, done.err
    (result,) = json.loads(Path("out.json").read_text())
    assert result["split"] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny.yaml", "--split", "halves"], "--split: expected even, searched, predicted or numbers"),
        (["tiny.yaml", "--tokens", "200"], "--tokens 200: the model has positions for 128"),
        (["tiny.yaml", "--split", "predicted"], "--split predicted: no table"),
        (["tiny.yaml", "--split", "40,9"], "split 40,9 holds 49 tokens, the prompt 48"),
        (["tiny.yaml", "--split", "20,20,8"], "is for 3 ranks, there are 2"),
        (["tiny.yaml", "--prompt", "none.txt"], "--prompt: cannot read none.txt"),
        (["tiny.yaml", "--backend", "nccl"], "nccl needs a GPU a rank"),
        (["tiny.yaml", "--link-gb-s", "-1"], "a slow link needs"),
        (["tiny.yaml", "--model.config.model_type=mamba"], "config"),
        (["kws_encoder"], "reads no prompt; lightning ttft is for CausalLM"),
        (["lm_subclone", "--model.init_from=${requires.parent}"], "is of the earlier step 'parent'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(cli, tiny: Path, words, message):
    done = cli("ttft", *words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
