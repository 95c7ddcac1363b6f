import torch
from lightsleeper.nn.text import PhoneText, pool_words

PHONES = torch.tensor([[1, 2, 3, 4, 5, 0], [7, 7, 7, 7, 7, 7]])
WORDS = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 1, 2, 3, 3, 3]])


def test_one_token_a_word_or_a_phone() -> None:
    tokens, counts = PhoneText(16, "word")(PHONES, WORDS)
    assert tokens.shape == (2, 4, 16)
    assert counts.tolist() == [2, 4]
    tokens, counts = PhoneText(16, "phone")(PHONES, WORDS)
    assert tokens.shape == (2, 6, 16)
    assert counts.tolist() == [5, 6]


def test_padding_and_fixed_size_change_no_token() -> None:
    for token in ("word", "phone"):
        encoder = PhoneText(16, token)  # type: ignore[arg-type]
        beside, counts = encoder(PHONES, WORDS, max_tokens=9)
        alone, _ = encoder(PHONES[:1, :5], WORDS[:1, :5])
        count = int(counts[0])
        assert beside.shape[1] == 9
        torch.testing.assert_close(beside[0, :count], alone[0, :count])


def test_order_of_phones_inside_a_word_matters() -> None:
    encoder = PhoneText(16, "word")
    words = torch.tensor([[0, 0, 0]])
    forward, _ = encoder(torch.tensor([[3, 8, 12]]), words)
    backward, _ = encoder(torch.tensor([[12, 8, 3]]), words)
    assert (forward - backward).abs().max() > 1e-3


def test_pool_words_is_the_mean_over_each_word() -> None:
    states = torch.arange(10.0).view(1, 5, 2)
    pooled = pool_words(states, torch.tensor([[0, 0, 1, 1, -1]]), 3)
    assert pooled.tolist() == [[[1.0, 2.0], [5.0, 6.0], [0.0, 0.0]]]
