import torch
from lightsleeper.models.kws_encoder import PhonemeCTC, sample_audio
from lightsleeper.nn.conformer import subsampled
from models.batches import TINY_ENCODER, random_batch


def test_one_step_lowers_the_loss_on_the_same_batch() -> None:
    torch.manual_seed(0)
    model = PhonemeCTC(**TINY_ENCODER, warp=0.0, noise=0.0, masks=0)
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch = random_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(5):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in model.parameters())


def test_a_clip_scores_the_same_alone_and_in_a_batch() -> None:
    model = PhonemeCTC(**TINY_ENCODER).eval()
    batch = random_batch()
    together = model.score(batch)["ctc"]
    for row in range(3):
        samples = int(batch["audio_lengths"][row])
        alone = {k: v[row : row + 1] for k, v in batch.items()} | {"audio": batch["audio"][row : row + 1, :samples]}
        torch.testing.assert_close(model.score(alone)["ctc"], together[row : row + 1], atol=1e-4, rtol=1e-4)


def test_the_exported_forward_equals_the_batched_path() -> None:
    model = PhonemeCTC(**TINY_ENCODER).eval()
    audio = sample_audio(3)
    hidden, frames = model.encode(audio, torch.tensor([audio.shape[1]]))
    torch.testing.assert_close(model(audio), model.log_probs(hidden), atol=1e-5, rtol=1e-5)
    assert int(frames) == int(subsampled(model.frontend.frames(torch.tensor(audio.shape[1]))))


def test_architecture_rebuilds_the_module() -> None:
    model = PhonemeCTC(**TINY_ENCODER, past_frames=8, future_frames=1, normalize="running")
    twin = PhonemeCTC(**model.architecture())
    twin.load_state_dict(model.state_dict())
    context = twin.context()
    assert context["past_ms"] == (8 + 4 + 1) * 40.0  # attention, half a kernel of 9, its own frame
    assert context["future_ms"] == (1 + 4) * 40.0 + 45
    assert context["state_bytes"] is not None


def test_streaming_equals_offline() -> None:
    model = PhonemeCTC(**TINY_ENCODER, past_frames=8, future_frames=1, normalize="running").eval()
    audio = sample_audio(2)
    stream = model.streaming()
    parts = [stream.push(audio[0, i : i + 777]) for i in range(0, audio.shape[1], 777)]
    parts.append(stream.push(torch.zeros(0), final=True))
    torch.testing.assert_close(torch.cat(parts), model.encode_clip(audio)[0], atol=1e-4, rtol=1e-4)


def test_augmentation_is_off_in_eval_mode() -> None:
    model = PhonemeCTC(**TINY_ENCODER).eval()
    batch = random_batch()
    first, second = model.score(batch)["ctc"], model.score(batch)["ctc"]
    assert torch.equal(first, second)
    model.train()
    assert not torch.equal(model.score(batch)["ctc"], first)
