"""Faces that come and go in one stream are judged as in their own clips; what is kept is what the formula says."""

import pytest
import torch
from lightsleeper.nn.face_streams import FaceStreams, Score
from lightsleeper.nn.limited_attention import LimitedLayer
from lightsleeper.nn.speaker_net import FusionSpec, SpeakerNet, example
from torch import Tensor

ADDED = 1e-12  # float64: sums in another order
SPECS = {
    "past": FusionSpec(layers=1, past=4, future=0),
    "first": FusionSpec(layers=2, past=3, future=2),
    "spread": FusionSpec(layers=2, past=2, future=3, spread=True),
    "ahead": FusionSpec(layers=1, past=0, future=5),
    "gru": FusionSpec("gru"),
}


def network(spec: FusionSpec, time: str = "causal", modality: str = "both") -> SpeakerNet:
    torch.manual_seed(0)
    net = SpeakerNet("small", time, spec, modality).double().eval()  # type: ignore[arg-type]
    for layer in net.modules():
        if isinstance(layer, LimitedLayer):
            torch.nn.init.normal_(layer.positions)
    return net


def clip(frames: int, seed: int) -> tuple[Tensor, Tensor]:
    return example(frames, seed, pixels=56)


@torch.no_grad()
def offline(net: SpeakerNet, faces: Tensor, mfcc: Tensor) -> list[float]:
    return net(faces, mfcc).softmax(-1)[0, :, 1].tolist()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_a_step_with_its_state_gives_the_scores_of_the_masked_clip(name: str, frames: int):
    net, (faces, mfcc) = network(SPECS[name]), clip(frames, 0)
    state, found = net.initial(1), []
    for step in range(frames + net.delay):
        at = min(step, frames - 1)
        with torch.no_grad():
            present = torch.tensor([float(step < frames)], dtype=torch.double)
            decision = net.step(faces[:, [at]], mfcc[:, 4 * at : 4 * at + 4], present, state)
        state = decision.state
        assert float(decision.ready) == (step >= net.delay)
        found.append(float(decision.score))
    assert found[net.delay :] == pytest.approx(offline(net, faces, mfcc), rel=0, abs=ADDED)


def play(net: SpeakerNet, tracks: dict[str, tuple[int, Tensor, Tensor]], frames: int) -> dict[str, list[Score]]:
    """``tracks``: name -> (first frame, faces, MFCC)."""
    streams, found = FaceStreams(net), {name: [] for name in tracks}
    for now in range(frames):
        here = {name: now - begin for name, (begin, faces, _) in tracks.items() if 0 <= now - begin < faces.shape[1]}
        faces = {name: tracks[name][1][0, at] for name, at in here.items()}
        mfcc = {name: tracks[name][2][0, 4 * at : 4 * at + 4] for name, at in here.items()}
        for score in streams.step(faces, mfcc):
            found[score.face].append(score)
        # 8 bytes a number here: the state of a face is what the formula says, whatever happened before
        assert streams.state_bytes() == 2 * net.state_bytes() * len(here)
    for score in streams.end():
        found[score.face].append(score)
    assert streams.state_bytes() == 0
    return found


@pytest.mark.parametrize("name", SPECS)
def test_faces_that_come_and_go_are_judged_as_in_their_own_clips(name: str):
    net = network(SPECS[name])
    tracks = {
        "first": (0, *clip(14, 1)),
        "second": (3, *clip(6, 2)),
        "third": (8, *clip(2, 3)),
        "last": (12, *clip(4, 4)),
    }
    for face, scores in play(net, tracks, 16).items():
        _, faces, mfcc = tracks[face]
        assert [score.frame for score in scores] == list(range(faces.shape[1]))
        assert [score.score for score in scores] == pytest.approx(offline(net, faces, mfcc), rel=0, abs=ADDED)


def test_a_decision_comes_after_its_look_ahead_and_no_later():
    net, (faces, mfcc) = network(SPECS["first"]), clip(6, 0)
    streams, came = FaceStreams(net), []
    for now in range(6):
        came += [(now, score.frame) for score in streams.step({"a": faces[0, now]}, mfcc[0, 4 * now : 4 * now + 4])]
    assert came == [(2, 0), (3, 1), (4, 2), (5, 3)]
    assert [score.frame for score in streams.close("a")] == [4, 5]


def test_one_sound_is_heard_by_all_faces():
    net, (faces, mfcc) = network(SPECS["past"]), clip(1, 0)
    both = FaceStreams(net).step({"a": faces[0, 0], "b": faces[0, 0]}, mfcc[0])
    assert both[0].score == both[1].score


def test_a_face_that_comes_back_begins_anew():
    net, (faces, mfcc) = network(SPECS["gru"]), clip(1, 0)
    streams = FaceStreams(net)
    first = streams.step({"a": faces[0, 0]}, mfcc[0])
    streams.step({}, mfcc[0])
    again = streams.step({"a": faces[0, 0]}, mfcc[0])
    assert (first[0].frame, again[0].frame) == (0, 0)
    assert first[0].score == again[0].score


@pytest.mark.slow
def test_ten_thousand_frames_need_no_more_memory_than_ten():
    """A fusion without its encoders, which are slow: they keep tensors of fixed shapes."""
    net = network(FusionSpec(layers=2, past=8, future=2), "framewise").float()
    streams, kept = FaceStreams(net), set()
    streams._open("a")
    vectors, judged = torch.randn(10_000, 1, net.encoders.dim), 0
    with torch.inference_mode():
        for number, vector in enumerate(vectors):
            judged += len(streams._judge(vector, present=True))
            if number % 1000 == 0:
                kept.add(streams.state_bytes())
        whole = net.head(net.fusion(vectors[-40:].transpose(0, 1))).softmax(-1)[0, :, 1]
        last = [score.score for score in streams.close("a")]
    assert kept == {net.state_bytes()}
    assert judged == 10_000 - net.delay
    assert last == pytest.approx(whole[-2:].tolist(), abs=1e-5)


def test_what_lies_beyond_the_reach_changes_no_score():
    net, (faces, mfcc) = network(SPECS["first"], "causal"), clip(40, 0)
    past, future = net.reach()
    assert (past, future) == (12 + 6, 2)
    before = offline(net, faces, mfcc)
    faces[:, 20], mfcc[:, 80:84] = 255 - faces[:, 20], mfcc[:, 80:84] + 50
    changed = [
        frame for frame, pair in enumerate(zip(before, offline(net, faces, mfcc), strict=True)) if pair[0] != pair[1]
    ]
    assert (min(changed), max(changed)) == (20 - future, 20 + past)


@pytest.mark.parametrize(
    ("modality", "deaf", "blind"), [("audio", False, True), ("video", True, False), ("both",) + (False,) * 2]
)
def test_a_network_of_one_sense_has_only_that(modality: str, deaf: bool, blind: bool):
    net, (faces, mfcc) = network(SPECS["past"], modality=modality), clip(6, 0)
    before = offline(net, faces, mfcc)
    assert (offline(net, faces, mfcc + 1) == before) == deaf
    assert (offline(net, 255 - faces, mfcc) == before) == blind


def test_what_does_not_stream_is_refused():
    for net in (network(FusionSpec("bigru")), network(FusionSpec(past=None)), network(SPECS["past"], "published")):
        assert net.context()["state_bytes"] is None
        with pytest.raises(ValueError, match="do not stream"):
            FaceStreams(net)


def test_context_is_told_in_milliseconds_with_the_window_of_the_sound():
    net = network(SPECS["first"])
    expected = {"past_ms": 40.0 * (12 + 6 + 1), "future_ms": 40.0 * 2 + 15, "state_bytes": 4.0 * net.state_size}
    assert net.context() == expected
    assert network(SPECS["gru"]).context()["past_ms"] is None


def test_a_wrong_number_of_mfcc_frames_is_refused():
    net, (faces, mfcc) = network(SPECS["past"]), clip(2, 0)
    with pytest.raises(ValueError, match="4 MFCC frames belong to a video frame; got 8"):
        FaceStreams(net).step({"a": faces[0, 0]}, mfcc[0])


@pytest.mark.slow
@pytest.mark.longest
def test_ten_thousand_frames_of_a_whole_network_leave_the_process_as_large_as_it_was():
    import resource

    net = network(FusionSpec(layers=2, past=8, future=2)).float()
    streams, (faces, mfcc) = FaceStreams(net), clip(50, 0)
    for number in range(10_000):
        at = number % 50
        streams.step({"a": faces[0, at], "b": faces[0, 49 - at]}, mfcc[0, 4 * at : 4 * at + 4])
        assert streams.state_bytes() == 2 * net.state_bytes()
        if number == 1000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # kB; a map a frame would be 500 MB
