from lightsleeper.bench import sweep
from lightsleeper.bench.sweep import Arm


def arms(parallel_s: float, gap_s: float) -> dict[str, Arm]:
    return {
        "serial": Arm(130.0, 120.0 + gap_s, [10.0] * 12),
        "parallel": Arm(parallel_s, 65.0, [10.5] * 12),
        "serial, two threads": Arm(100.0, 90.0, [7.5] * 12),
    }


def test_the_share_between_trials_and_the_speed_of_whole_commands_are_judged():
    found = sweep.summary(arms(parallel_s=70.0, gap_s=1.2), steps=5)
    assert found["bookkeeping"] == (121.2 - 120.0) / 120.0
    assert found["speedup"] == 130.0 / 70.0
    text = sweep.render(found)
    assert "1.86x (trials alone 1.86x); target 1.7x: reached" in text
    assert "1.00 % of their time; target under 2 %: reached" in text
    assert "two threads against one: 1.30x" in text


def test_a_missed_target_is_said():
    text = sweep.render(sweep.summary(arms(parallel_s=100.0, gap_s=6.0), steps=5))
    assert "target 1.7x: MISSED" in text
    assert "target under 2 %: MISSED" in text


def test_its_sweep_file_is_one_we_take(tmp_path):
    import yaml
    from lightsleeper.search import sweep_file

    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(sweep._sweep({"model.lr": [1e-3, 2e-3], "seed_everything": [1, 2, 3]}, 5)))
    assert len(list(sweep_file.read(path).points())) == 6
