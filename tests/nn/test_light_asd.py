"""Light-ASD's encoders: sizes, shapes, what they see, streams, published weights."""

from pathlib import Path

import pytest
import torch
from lightsleeper.errors import UserError
from lightsleeper.nn import light_asd_weights
from lightsleeper.nn.light_asd import SIZES, Encoders, OverFrames, TimeMode
from lightsleeper.nn.speaker_net import FusionSpec, SpeakerNet, example
from torch import Tensor, nn

ADDED = 1e-12  # float64: sums in another order


def small(time: TimeMode) -> Encoders:
    torch.manual_seed(0)
    return Encoders("small", time).double().eval()


def clip(frames: int) -> tuple[Tensor, Tensor]:
    return example(frames, pixels=56)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_published_network_has_the_published_parameters():
    net = SpeakerNet("light_asd", "published", FusionSpec("bigru"))
    assert (count(net.encoders.faces), count(net.encoders.sound), count(net.fusion)) == (545_024, 277_952, 198_144)
    assert count(net.encoders) + count(net.fusion) == 1_021_120


def test_a_causal_encoder_has_the_weights_of_the_published_one():
    shapes = [{name: value.shape for name, value in Encoders(time=time).state_dict().items()} for time in
              ("published", "causal")]  # fmt: skip
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_faces_of_112_pixels_become_maps_of_56_28_and_14():
    encoder = Encoders().eval()
    x, edges = encoder.pixels(example(2)[0]), []
    for layer in encoder.faces.layers:
        x = layer(x)
        edges.append(x.shape[-1])
    assert edges == [56, 28, 28, 14, 14]


@pytest.mark.parametrize("time", ["published", "causal", "framewise"])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_every_frame_has_a_vector_of_each(time: TimeMode, frames: int):
    sound, faces = small(time)(*clip(frames))
    assert sound.shape == faces.shape == (1, frames, SIZES["small"].widths[-1])


def moved(time: TimeMode, frame: int, mfcc_frame: int, frames: int = 40) -> tuple[list[int], list[int]]:
    """Frames whose vectors of faces, and of sound, change to the bit with one frame of faces and one of MFCC."""
    encoders, (faces, mfcc) = small(time), clip(frames)
    with torch.no_grad():
        before = encoders(faces, mfcc)
        faces[:, frame] = 255 - faces[:, frame]
        mfcc[:, mfcc_frame] += 100.0
        after = encoders(faces, mfcc)
    sound, seen = (((a != b).any(-1)[0]).nonzero()[:, 0].tolist() for a, b in zip(before, after, strict=True))
    return seen, sound


def test_causal_encoders_see_the_past_that_they_say_and_no_frame_ahead():
    encoders = small("causal")
    assert (encoders.past, encoders.future, encoders.sound.past) == (12, 0, 34)
    seen, sound = moved("causal", 10, 43)  # the last MFCC frame of video frame 10
    assert (min(seen), max(seen)) == (10, 22)
    assert (min(sound), max(sound)) == (10, 18)
    _, sound = moved("causal", 10, 44)  # the first of frame 11
    assert min(sound) == 11


def test_published_encoders_see_six_frames_on_either_side():
    encoders = small("published")
    assert (encoders.past, encoders.future, encoders.sound.future) == (6, 6, 14)
    seen, sound = moved("published", 20, 80)
    assert (min(seen), max(seen)) == (14, 26)
    assert (min(sound), max(sound)) == (16, 24)


def test_framewise_encoders_see_their_own_frame_only():
    for mfcc_frame in (40, 43):
        assert moved("framewise", 10, mfcc_frame) == ([10], [10])
    assert (small("framewise").past, small("framewise").future, small("framewise").state_size) == (0, 0, 0)


@pytest.mark.parametrize("time", ["causal", "framewise"])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 5], [9]])
def test_a_stream_gives_the_vectors_of_the_clip(time: TimeMode, chunks: list[int]):
    encoders, (faces, mfcc) = small(time), clip(9)
    state = torch.zeros(1, encoders.state_size, dtype=torch.double)
    parts = []
    with torch.no_grad():
        whole = encoders(faces, mfcc)
        for seen, heard in zip(faces.split(chunks, 1), mfcc.split([4 * n for n in chunks], 1), strict=True):
            *vectors, state = encoders.stream(seen, heard, state)
            parts.append(vectors)
    for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=ADDED)


def test_a_shift_of_both_shifts_the_vectors():
    encoders, (faces, mfcc) = small("causal"), clip(30)
    with torch.no_grad():
        whole, later = encoders(faces, mfcc), encoders(faces[:, 3:], mfcc[:, 12:])
    for first, second in zip(whole, later, strict=True):  # beyond what still sees the border
        torch.testing.assert_close(first[:, 3 + 12 :], second[:, 12:], rtol=0, atol=ADDED)


def test_encoders_that_look_ahead_refuse_to_stream():
    with pytest.raises(ValueError, match="looks 1 frames ahead does not stream"):
        small("published").stream(*clip(1), torch.zeros(1, 82_440, dtype=torch.double))


def test_larger_faces_are_averaged():
    encoders = small("framewise")
    faces, mfcc = example(1, pixels=112)
    tiles = faces.double().unflatten(3, (56, 2)).unflatten(2, (56, 2)).mean((3, 5))
    assert torch.equal(encoders.pixels(faces), encoders.pixels(tiles))


def test_the_state_is_what_the_kernels_still_need():
    # (k - 1) maps of each temporal kernel; MFCC frames of each, and one of each pool.
    faces = sum(6 * width * edge**2 for width, edge in zip((32, 64, 128), (56, 28, 14), strict=True))
    sound = 13 * (6 * (32 + 64 + 128) + 32 + 64)
    assert Encoders().state_size == faces + sound
    assert OverFrames(8, 5, 7).state_size == 8 * 4 * 49


# Published weights.


def published() -> dict[str, Tensor]:
    """A state dict with the published names and shapes."""
    net, found = SpeakerNet("light_asd", "published", FusionSpec("bigru")).state_dict(), {}
    for theirs, ours in light_asd_weights.names().items():
        value = net[ours]
        if theirs.startswith("model.visual") and value.dim() == 4:
            value = value[..., None] if ".t_" in theirs else value[:, :, None]
        found[theirs] = torch.rand(value.shape).to(value.dtype)
    return found


def test_published_names_cover_the_whole_network():
    names = light_asd_weights.names()
    assert set(names.values()) == set(SpeakerNet("light_asd", "published", FusionSpec("bigru")).state_dict())
    assert names["model.visualEncoder.block2.bn_t_5.running_var"].endswith(
        "layers.2.layers.0.paths.1.layers.1.layer.1.running_var"
    )
    for name in ("model.audioEncoder.block3.m_3.weight", "model.GRU.gru_backward.bias_hh_l0", "lossV.FC.weight"):
        assert name in names


def test_published_weights_load_and_compute_the_same_block(tmp_path: Path):
    weights = published()
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "weights.model")
    net = SpeakerNet("light_asd", "published", FusionSpec("bigru"))
    net.load_state_dict(light_asd_weights.read(tmp_path / "weights.model"))
    x = torch.rand(1, 32, 4, 9, 9)
    space, time = (weights[f"model.visualEncoder.block2.{name}_5.weight"] for name in "st")
    path = net.encoders.faces.layers[2].layers[0].paths[1]
    expected = nn.functional.conv3d(nn.functional.conv3d(x, space, padding=(0, 2, 2)), time, padding=(2, 0, 0))
    found = path.layers[0].layer[0](x.transpose(1, 2).flatten(0, 1)).unflatten(0, (1, 4)).transpose(1, 2)
    padded = nn.functional.pad(found.flatten(3), (0, 0, 2, 2))
    torch.testing.assert_close(path.layers[1].layer[0](padded).unflatten(3, (9, 9)), expected)
    assert torch.equal(net.head.weight, weights["lossAV.FC.weight"])


def test_other_files_are_refused_by_name(tmp_path: Path):
    weights = published()
    del weights["model.GRU.gru_forward.weight_hh_l0"]
    torch.save(weights, tmp_path / "part.model")
    with pytest.raises(UserError, match=r"has no 'model.GRU.gru_forward.weight_hh_l0' \(1 of "):
        light_asd_weights.read(tmp_path / "part.model")
    (tmp_path / "text.model").write_text("no weights")
    with pytest.raises(UserError, match="cannot read"):
        light_asd_weights.read(tmp_path / "text.model")
