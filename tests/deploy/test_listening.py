import numpy as np
import pytest
import soundfile
from lightsleeper.data.sounds import Recording
from lightsleeper.deploy.detector import StreamingDetector, TorchStream
from lightsleeper.deploy.listening import Listening, to_json
from models.wake_streams import make
from tiny_detector import LOUD, RATE, Louder, jumps


class Live:
    """Blocks that come as they are said."""

    live, name, seconds, rate = True, "live", None, RATE

    def __init__(self, *blocks: np.ndarray) -> None:
        self.given, self.closed = blocks, False

    def blocks(self, sample_rate):
        try:
            yield from self.given
        finally:
            self.closed = True


class Watching:
    def __init__(self) -> None:
        self.samples, self.scores = 0, 0

    def hear(self, samples):
        self.samples += len(samples)

    def score(self, scores):
        self.scores += len(scores)


def louder(**how) -> StreamingDetector:
    return StreamingDetector(TorchStream(Louder(), LOUD), **how)


def test_events_of_a_recording_count_from_its_first_sample(tmp_path):
    path = jumps(tmp_path / "a.wav", (1.0, 2.5))
    listening = Listening(louder(), Recording(path))
    found = list(listening)
    assert [event.end_s for event in found] == pytest.approx([1.02, 2.52])
    assert [event.time_s for event in found] == pytest.approx([1.02, 2.52])
    assert [event.start_s for event in found] == pytest.approx([0.72, 2.22])  # Louder says 0.3 s before
    assert (listening.events, listening.seconds) == (2, 4.0)
    assert list(listening) == found  # from the initial state again


def test_a_keyword_that_ends_with_the_file_fires_in_the_silence_after_it(tmp_path):
    model = make("heimdal")
    clip = np.random.default_rng(0).standard_normal(8_000) * 0.2
    soundfile.write(tmp_path / "a.wav", clip, RATE)
    detector = StreamingDetector(TorchStream(model, {"refractory_s": "0.02"}), threshold=-1.0)
    found = list(Listening(detector, Recording(tmp_path / "a.wav")))
    assert len(found) == 75  # half a second, half a second before and after: each hop fires
    assert max(event.time_s for event in found) == pytest.approx(1.0)
    assert max(event.end_s for event in found) == 0.5
    assert min(event.start_s for event in found) == 0.0


def test_a_live_sound_gets_no_silence_and_is_closed(tmp_path):
    block, loud = np.zeros(RATE, np.float32), np.full(640, 0.9, np.float32)
    sound, watcher = Live(block, loud, block), Watching()
    found = list(Listening(louder(), sound, watcher))
    assert [event.end_s for event in found] == pytest.approx([1.02])
    assert (watcher.samples, watcher.scores) == (2 * RATE + 640, 102)
    assert sound.closed


def test_one_that_is_ended_gives_the_event_that_waits():
    def blocks():
        yield np.zeros(RATE, np.float32)
        yield np.full(320, 0.9, np.float32)
        raise KeyboardInterrupt

    sound = Live()
    sound.blocks = lambda rate: blocks()
    listening, found = Listening(louder(wait_s=0.5), sound), []
    with pytest.raises(KeyboardInterrupt):
        found += listening
    assert found == []
    (event,) = listening.finish()
    assert (event.end_s, listening.events) == (pytest.approx(1.02), 1)


def test_json_says_null_where_the_model_does_not_tell_the_start():
    class Untold(Louder):
        def stream(self, audio, state):
            return super().stream(audio, state)._replace(start_s=None)

    detector = StreamingDetector(TorchStream(Untold(), LOUD))
    (found,) = Listening(detector, Live(np.zeros(640, np.float32), np.full(320, 0.9, np.float32)))
    assert to_json(found) == {"file": "live", "start_s": None, "end_s": 0.06, "time_s": 0.06, "score": found.score}
