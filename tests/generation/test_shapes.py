import pytest
import tiny_prefill as tiny
from lightsleeper.generation import shapes
from lightsleeper.generation.layout import inspect
from lightsleeper.generation.shapes import ShapeTime
from linear_times import Times

GRID = [(own, before) for own in (64, 256, 1024, 2048) for before in (0, 500, 2000)]


def made(times: Times, noise=lambda index: 1.0) -> list[ShapeTime]:
    return [
        ShapeTime(own, before, times.embedding(own), times.keys(own) * noise(i), times.rest(own, before) * noise(i))
        for i, (own, before) in enumerate(GRID)
    ]


def test_a_fit_finds_the_times_that_made_the_shapes_and_those_between():
    model, times = tiny.llama(), Times(layers=3)
    fitted = shapes.fit(model, inspect(model), made(times), times.head_s)
    assert fitted.layers == 3
    assert fitted.worst < 1e-9
    for own, before in [*GRID, (700, 1300), (4096, 4096)]:
        assert fitted.keys(own) == pytest.approx(times.keys(own))
        assert fitted.rest(own, before) == pytest.approx(times.rest(own, before))
    assert fitted.embedding(300) == pytest.approx(times.embedding(300))


def test_noise_gives_no_negative_time_and_its_error_is_told():
    model, times = tiny.llama(), Times(layers=3, attention=0.0)
    noisy = made(times, lambda index: 1 + 0.05 * (-1) ** index)
    fitted = shapes.fit(model, inspect(model), noisy, 0.0)
    assert min(fitted.rest_fit + fitted.keys_fit) >= 0
    assert 0.01 < fitted.worst < 0.12


def test_a_fit_needs_a_shape():
    with pytest.raises(ValueError, match="no shape was measured"):
        shapes.fit(tiny.llama(), inspect(tiny.llama()), [], 0.0)


@pytest.mark.parametrize(
    "name", ["llama, grouped queries", "gpt2", "gemma 3, windows and full", "falcon, one key head"]
)
def test_shapes_of_a_model_are_measured_on_its_first_blocks(name):
    model = tiny.MODELS[name]()
    layout = inspect(model)
    found = shapes.measure(model, layout, [(4, 0), (8, 24)], repeats=2)
    assert [(shape.own, shape.before) for shape in found] == [(4, 0), (8, 24)]
    assert all(min(shape.embedding, shape.keys, shape.rest) > 0 for shape in found)
    assert not any(block._forward_pre_hooks for block in shapes.blocks_of(model))
    assert shapes.head_seconds(model, repeats=1) > 0


def test_the_grid_holds_what_a_chain_meets():
    grid = shapes.grid(2048, 2)
    assert (1024, 0) in grid
    assert (1024, 1024) in grid
    assert all(own + before <= 2048 for own, before in grid)
