import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.models.kws_p2v import PhonemeVectors, build, count_in, refresh, stale
from lightsleeper.nn.matching import IMPOSSIBLE
from lightsleeper.phones import CLASSES
from models.batches import TINY_ENCODER, keyword_batch, random_batch


def vectors(**options: Any) -> PhonemeVectors:
    """Random weights, and a table of random vectors built for them."""
    torch.manual_seed(0)
    model = PhonemeVectors(TINY_ENCODER, **options).eval()
    hear_everything(model)
    return model


def hear_everything(model: Any) -> None:
    """Give ``model`` the table of clips in which each phone is heard once."""
    width = model.table.vectors.shape[1]
    hidden = torch.randn(CLASSES - 1, 1, width)
    phones = torch.arange(1, CLASSES)[:, None]
    log_probs = (9 * torch.nn.functional.one_hot(phones, CLASSES).float()).log_softmax(-1)
    model.table.add(hidden, log_probs, torch.ones(CLASSES - 1, dtype=torch.long), phones)
    build(model.encoder, model.table)
    model.table.clear()


def test_a_pass_over_training_clips_makes_the_table_without_a_gradient() -> None:
    torch.manual_seed(0)
    model = PhonemeVectors(TINY_ENCODER)
    assert model.configure_optimizers() is None  # type: ignore[func-returns-value]
    assert not any(p.requires_grad for p in model.parameters())
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()
    batch = random_batch()
    heard = model.encoder.log_probs(model.encoder.encode(batch["audio"], batch["audio_lengths"])[0]).argmax(-1)
    batch["phones"] = torch.zeros(6, 1, dtype=torch.long)
    batch["phones"][:, 0] = heard.flatten()[heard.flatten() > 0].mode().values  # of one clip or more perhaps true
    model.training_step(batch, 0)
    assert model.table.clips == 6
    assert not model.encoder.training
    torch.testing.assert_close(model.encoder.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_both_kinds_of_batch_are_heard() -> None:
    model = PhonemeVectors(TINY_ENCODER)
    for batch, clips in ((random_batch(5), 5), (keyword_batch(), 4)):
        model.table.clear()
        count_in(model.encoder, model.table, batch)
        assert model.table.clips == clips


def test_enough_exact_clips_end_the_hearing() -> None:
    model = vectors(exact_clips=1)
    model.table.clips, model.table.exact = 10, 1
    model.training_step(random_batch(), 0)
    assert model.table.clips == 10


def test_a_table_without_an_exact_clip_warns_and_takes_what_the_classifier_looks_for() -> None:
    model = PhonemeVectors(TINY_ENCODER)
    count_in(model.encoder, model.table, random_batch())
    with pytest.warns(UserWarning, match="decoded none of 6 clips without error"):
        build(model.encoder, model.table)
    assert torch.equal(model.table.vectors[1:], model.encoder.head.weight[1:])
    assert model.table.counts.sum() == 0
    assert model.table.built


@pytest.mark.parametrize("alignment", ["matrix", "dsp"])
def test_scores_do_not_depend_on_neighbours(alignment: str) -> None:
    model = vectors(alignment=alignment)
    batch = random_batch()
    together = model.score(batch)
    for row in range(3):
        samples = int(batch["audio_lengths"][row])
        alone = {k: v[row : row + 1] for k, v in batch.items()} | {"audio": batch["audio"][row : row + 1, :samples]}
        for name, value in model.score(alone).items():
            torch.testing.assert_close(value, together[name][row : row + 1], atol=1e-4, rtol=1e-4)


def test_too_few_frames_score_lowest() -> None:
    model = vectors()
    batch = random_batch(2)
    batch["audio"], batch["audio_lengths"] = batch["audio"][:, :3000], torch.tensor([3000, 3000])  # 4 frames, 6 phones
    assert model.score(batch)["shipped"].tolist() == [IMPOSSIBLE, IMPOSSIBLE]


def test_the_table_is_stale_when_the_encoder_changes_and_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vectors()
    assert not stale(model.encoder, model.table)
    model.rebuild(lambda: pytest.fail("the table is that of this encoder"))
    with torch.no_grad():
        for p in model.encoder.conformer.parameters():
            p.mul_(1.2)
    assert stale(model.encoder, model.table)
    old = model.table.vectors.clone()
    monkeypatch.setattr(
        "lightsleeper.models.kws_p2v.count_in",
        lambda encoder, table, batch: table.add(*batch),
    )
    hidden = torch.randn(CLASSES - 1, 1, 32)
    phones = torch.arange(1, CLASSES)[:, None]
    log_probs = (9 * torch.nn.functional.one_hot(phones, CLASSES).float()).log_softmax(-1)
    refresh(model.encoder, model.table, [(hidden, log_probs, torch.ones(CLASSES - 1, dtype=torch.long), phones)])
    assert not torch.equal(model.table.vectors, old)
    assert not stale(model.encoder, model.table)


def test_encoder_and_table_are_saved_as_one(tmp_path: Path) -> None:
    model = vectors()
    save_model(model, tmp_path, {})
    twin = load_model(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["init_args"]["encoder"]["dim"] == 32
    assert not stale(twin.encoder, twin.table)
    batch = random_batch()
    assert torch.equal(model.score(batch)["shipped"], twin.score(batch)["shipped"])
