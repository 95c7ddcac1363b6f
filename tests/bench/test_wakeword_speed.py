import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest
from lightsleeper import recipe as recipes
from lightsleeper.bench import wakeword, wakeword_nets, wakeword_speed
from lightsleeper.bench.engine_clock import EngineClock
from lightsleeper.errors import UserError
from lightsleeper.models.wakeword_cnn import WakeWordCNN

ENGINE = """
KEYWORDS = {"jarvis"}
class Engine:
    frame_length, sample_rate, version, _handle = 512, 16000, "9.9.9", None
    def process(self, pcm):
        assert len(pcm) == 512
    def process_func(self, handle, pcm, found):
        assert len(pcm) == 512
def create(keywords):
    assert keywords == ["jarvis"]
    return Engine()
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> str:
    """A Python, of sorts, in which a pvporcupine can be imported."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "pvporcupine.py").write_text(ENGINE)
    info = folder / "pvporcupine-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pvporcupine\nVersion: 9.9.9\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture(scope="module")
def result(engine: str, tmp_path_factory) -> dict:
    small = {"width": 8, "kernels": [3], "dilations": [1]}
    with pytest.MonkeyPatch.context() as patch:
        for name in wakeword_nets.QUICK:  # in their place: networks that are exported in seconds
            branches = 2 if name == wakeword_nets.BRANCHED else 0
            patch.setitem(wakeword_nets.NETWORKS, name, partial(WakeWordCNN, branches=branches, **small))
        given = {"part": "speed", "engine": engine, "quick": True, "repeats": 2, "seeds": None, "threads": 1}
        return wakeword.run(Namespace(out=str(tmp_path_factory.mktemp("models")), **given))


@pytest.mark.slow
def test_the_result_is_json_and_holds_every_figure_of_every_network(result: dict):
    assert json.loads(json.dumps(result)) == result
    assert list(result["networks"]) == ["RepCNN folded", "RepCNN branched", "BC-ResNet-1"]
    for row in result["networks"].values():
        assert list(row["us"]) == ["hop", "32", "320", "graph 32", "graph 320", "network 32", "network 320"]
        for times in row["us"].values():
            assert 0 < times["min"] <= times["p10"] <= times["median"] <= times["p90"]
        assert row["rtf"]["320"] == row["us"]["320"]["median"] / 320_000
        assert row["max_difference"] <= 1e-5
        assert row["state_bytes"] % 4 == 0
        for ms, cell in row["activation_bytes"].items():
            assert cell["measured"] >= cell["computed"] / 2 > 0
            assert 0 < row["network_activation_bytes"][ms]["measured"] < cell["measured"]
            assert 0 < row["network_activation_bytes"][ms]["computed"] < cell["computed"]
    folded, branched, _ = result["networks"].values()
    assert folded["parameters"] < branched["parameters"]
    assert folded["network_macs_per_s"] < branched["network_macs_per_s"]
    assert folded["state_bytes"] == branched["state_bytes"] == 4 * (320 + 40 * 3 + 8 * 2)
    assert folded["hop_ms"] == 20


@pytest.mark.slow
def test_the_engine_is_timed_on_the_same_audio_by_chunk(result: dict):
    found = result["engine"]
    assert (found["engine"], found["keyword"], found["frame_ms"]) == ("pvporcupine 9.9.9", "jarvis", 32)
    for form in ("package", "function"):
        short, long = found[form]["32"], found[form]["320"]
        assert long["us"]["median"] == pytest.approx(10 * short["us"]["median"])
        assert short["detector"]["median"] > 0
        assert short["graph"]["median"] > 0


@pytest.mark.slow
def test_the_tables_name_bars_and_verdicts(result: dict):
    text = "\n".join(wakeword_speed.report(result))
    assert "RepCNN branched" in text
    assert "bar 1: MISSED" in text  # that engine does nothing
    assert "equal to 1e-05: yes" in text
    slow = {**result["engine"]}
    for form in ("package", "function"):
        slow[form] = {ms: {**cell, "detector": {"median": 4.1, "p10": 4, "p90": 5}} for ms, cell in slow[form].items()}
    text = "\n".join(wakeword_speed.report({**result, "engine": slow}))
    assert text.count("reached") == 4


def _row(microseconds: float, network: float, counted: int, arena: int) -> dict:
    """Of a network that takes so long a call, and whose arena is larger by 1,000 bytes with its front end."""
    times = {"hop": microseconds, "32": microseconds, "320": 2 * microseconds}
    times |= {f"network {ms}": network for ms in ("32", "320")}
    memory = {ms: {"computed": counted, "measured": arena} for ms in ("20", "320")}
    return {
        "parameters": 1, "file_bytes": 1, "network_macs_per_s": 1, "frontend_macs_per_s": 1, "state_bytes": 4,
        "past_ms": 1.0, "hop_ms": 20.0, "rtf": {"32": 0.1, "320": 0.1}, "max_difference": 0.0,
        "us": {chunk: {"median": value, "p10": value, "p90": value} for chunk, value in times.items()},
        "activation_bytes": {ms: {**cell, "measured": 1000 + arena} for ms, cell in memory.items()},
        "network_activation_bytes": memory,
    }  # fmt: skip


def test_bc_resnet_is_compared_with_both_widths_whole_and_without_front_end():
    networks = {
        "RepCNN folded": _row(100, 40, 300, 1000),
        "RepCNN-16 folded": _row(80, 20, 200, 500),
        "BC-ResNet-1": _row(240, 160, 600, 2500),
    }
    result = {"rounds": 1, "stretch_ms": 1600.0, "clock_over_processor": 1.0, "networks": networks}
    rows = [line.split(maxsplit=2) for line in wakeword_speed.report(result) if line.startswith("BC-ResNet-1 ")]
    assert [row[1:] for row in rows if row[1] in ("detector", "network")] == [
        ["detector", "32 ms 2.4, 320 ms 2.4 | 20 ms 2.0, 1.8; 320 ms 2.0, 1.8"],
        ["network", "32 ms 4.0, 320 ms 4.0 | 20 ms 2.0, 2.5; 320 ms 2.0, 2.5"],
        ["detector", "32 ms 3.0, 320 ms 3.0 | 20 ms 3.0, 2.3; 320 ms 3.0, 2.3"],
        ["network", "32 ms 8.0, 320 ms 8.0 | 20 ms 3.0, 5.0; 320 ms 3.0, 5.0"],
    ]


def test_every_family_is_among_the_networks():
    families = {type(make()).__name__ for make in wakeword_nets.NETWORKS.values()}
    assert families == {"WakeWordCNN", "BCResNet", "HEiMDaL", "DNNHMM", "DSTCN"}


def test_networks_have_the_sizes_of_the_recipes():
    recipe = recipes.load(["wakeword_repcnn"], []).config["model"]["init_args"]
    network = wakeword_nets.NETWORKS[wakeword_nets.FOLDED]()
    assert {name: network.architecture()[name] for name in ("kernels", "dilations", "width")} == {
        name: recipe[name] for name in ("kernels", "dilations", "width")
    }
    assert network.context()["past_ms"] == pytest.approx(1630, abs=0.1)


@pytest.mark.parametrize(("hop", "chunk"), [(20.0, 32.0), (10.0, 32.0), (20.0, 320.0), (32.0, 20.0), (32.0, 32.0)])
def test_added_latency_is_that_of_playing_samples_one_by_one(hop: float, chunk: float):
    size, step = round(16 * hop), round(16 * chunk)
    waits, waiting, given = [], [], 0
    for at in range(4 * size * step // 16):
        waiting.append(at)
        if (at + 1) % step == 0:
            given = at + 1
            scored = given // size * size
            waits += [given - sample for sample in waiting if sample < scored]
            waiting = [sample for sample in waiting if sample >= scored]
    found = wakeword_speed.added_latency_ms(hop, chunk)
    assert found["worst"] == max(waits) / 16
    assert abs(found["mean"] - sum(waits) / len(waits) / 16) < 0.1


def test_an_environment_without_the_engine_is_told_in_one_line(tmp_path: Path):
    audio = wakeword_speed.speech_like_noise(1600)
    with pytest.raises(UserError, match=r"cannot start 'no-such-python'"):
        EngineClock("no-such-python", audio, tmp_path, "jarvis").__enter__()
    with pytest.raises(UserError, match="runs no pvporcupine: ModuleNotFoundError"):
        EngineClock(sys.executable, audio, tmp_path, "jarvis").__enter__()
