import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from lightsleeper.deploy import benchmark as module
from lightsleeper.deploy.benchmark import benchmark, machine_lock, size_of, speech_like_noise, time_calls
from lightsleeper.deploy.fingerprint import fingerprint
from lightsleeper.errors import UserError


def test_every_file_gets_latencies_with_their_conditions(matcher, exported, artifacts):
    timed, size = benchmark(matcher, exported.parent, artifacts, repeats=5)
    assert "latency" not in artifacts[0]
    rows = timed[0]["latency"]
    assert [(row["threads"], row["chunk_ms"]) for row in rows] == [
        (threads, ms) for threads in (1, 2) for ms in (1000.0, 500.0, 2000.0)
    ]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["rtf"] == pytest.approx(row["p50_ms"] / row["chunk_ms"])
        assert row["content"] == "speech-like noise"
        assert row["per"] == "clip"
        assert row["fingerprint"] == fingerprint()["id"]
    enroll = timed[1]["latency"]
    assert [(row["per"], row["chunk_ms"], row["rtf"]) for row in enroll] == [("keyword", None, None)] * 2
    assert size["parameters"] == 640 * 4 + 4 + 40 * 4
    assert 1e5 < size["peak_memory_bytes"] < 5e8  # a session costs megabytes, never the training process's gigabyte


def test_packed_weights_are_not_timed(matcher, exported, artifacts):
    packed = {"format": "packed", "path": "packed.safetensors"}
    timed, _ = benchmark(matcher, exported.parent, [artifacts[0], packed], threads=[1], repeats=5)
    assert timed[1] == packed
    alone, size = benchmark(matcher, exported.parent, [packed], threads=[1], repeats=5)
    assert alone == [packed]
    assert size["peak_memory_bytes"] is None


def test_one_thread_count_and_a_missing_file(matcher, exported, artifacts):
    timed, _ = benchmark(matcher, exported.parent, artifacts[:1], threads=[1], repeats=5)
    assert {row["threads"] for row in timed[0]["latency"]} == {1}
    exported.unlink()
    with pytest.raises(UserError, match="does not exist"):
        benchmark(matcher, exported.parent, artifacts, repeats=5)


def test_nonzeros_and_macs_are_counted(matcher):
    matcher.frame.weight.data[0] = 0
    size = size_of(matcher)
    assert size["parameters"] - size["nonzero"] == 640
    assert size["macs"] == 25 * 640 * 4  # one second is 25 frames through one linear layer


def test_calls_stop_at_the_repeats_or_at_the_budget():
    assert len(time_calls(lambda: None, repeats=50)) == 50
    times = time_calls(lambda: time.sleep(0.01), repeats=10_000, budget_s=0.1)
    assert 5 <= len(times) < 20
    assert min(times) >= 10.0  # milliseconds


def test_the_noise_is_deterministic_and_at_a_speech_level():
    noise = speech_like_noise(16_000)
    assert np.array_equal(noise, speech_like_noise(16_000))
    assert noise.dtype == np.float32
    assert np.sqrt((noise**2).mean()) == pytest.approx(0.05, rel=1e-3)
    assert np.abs(noise).max() < 1.0
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[:2000].mean() > 10 * power[4000:].mean()  # below 2 kHz against above 4 kHz


def test_benchmarks_exclude_each_other_across_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    with machine_lock():
        code = (
            "import tempfile, sys; tempfile.gettempdir = lambda: sys.argv[1]\n"
            "from lightsleeper.deploy.benchmark import machine_lock\n"
            "from lightsleeper.errors import UserError\n"
            "try:\n    machine_lock(0.1).__enter__()\nexcept UserError as error:\n    print(error)"
        )
        child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert "another benchmark has held this machine" in child.stdout
    with machine_lock(0.1):
        pass


def test_peak_memory_is_that_of_the_model_not_of_the_parent(matcher, exported):
    ballast = torch.ones(60_000_000)  # 240 MB in this process
    used = module.peak_memory(exported, matcher.export_spec()[0])
    assert ballast.sum() > 0
    assert used is not None
    assert used < 100e6


def test_the_fingerprint_names_no_machine():
    import getpass
    import platform

    facts = fingerprint()
    assert facts == fingerprint()
    assert {"id", "cpu", "cores", "os", "onnxruntime"} <= facts.keys()
    text = " ".join(str(value) for value in facts.values()).split()
    assert platform.node() not in text
    assert getpass.getuser() not in text
