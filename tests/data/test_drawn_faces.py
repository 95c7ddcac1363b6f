import numpy as np
import pytest
from lightsleeper.data.drawn_faces import Camera, draw_face, render
from lightsleeper.data.gestures import GESTURES, at_rest, say
from lightsleeper.data.visemes import OPEN, mouth

SIZE = 56
TIMES = (np.arange(50) + 0.5) / 25


def motion(seed=0, **changes):
    """A face that keeps quite still."""
    found = at_rest(TIMES, np.random.default_rng(seed))
    for name in vars(found):
        getattr(found, name)[:] = 0
    for name, value in changes.items():
        getattr(found, name)[:] = value
    return found


def camera(**changes):
    plain = {"px": 200.0, "gain": 1.0, "gamma": 1.0, "light": (0.0, 0.0), "noise": 0.0, "occluder": None, "seed": 0}
    return Camera(**{**plain, **changes})


def shape(**changes):
    found = np.zeros((len(TIMES), 6), np.float32)
    for column, value in changes.items():
        found[:, {"open": OPEN}[column]] = value
    return found


FACE = draw_face(3, seed=0)
MOUTH = slice(int(SIZE * 0.6), int(SIZE * 0.85)), slice(int(SIZE * 0.3), int(SIZE * 0.7))


def test_the_same_numbers_draw_the_same_face():
    assert draw_face(3, 0) == FACE
    assert draw_face(4, 0) != FACE
    first, again = (render(FACE, at_rest(TIMES, np.random.default_rng(1)), camera(noise=0.02), SIZE) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (50, SIZE, SIZE)
    assert first.dtype == np.uint8


def test_a_mouth_that_opens_is_dark_and_only_the_lower_face_changes():
    shut, wide = (render(FACE, motion(shape=shape(open=value)), camera(), SIZE)[0].astype(int) for value in (0.0, 1.0))
    assert (shut - wide)[MOUTH].max() > 60
    np.testing.assert_array_equal(shut[: SIZE // 2], wide[: SIZE // 2])


def test_the_mouth_follows_what_is_said():
    shapes = mouth(["'A:", "p", "'A:", "p", "'A:"], [0.2, 0.6, 0.8, 1.2, 1.4], 1.8, TIMES)
    moving = motion()
    say(moving, shapes)
    dark = render(FACE, moving, camera(), SIZE)[:, MOUTH[0], MOUTH[1]].astype(float).mean((1, 2))
    assert np.corrcoef(-dark, shapes[:, OPEN])[0, 1] > 0.9


def test_eyes_blink():
    seen, closed = (render(FACE, motion(blink=value), camera(), SIZE)[0] for value in (0.0, 1.0))
    upper = slice(int(SIZE * 0.3), int(SIZE * 0.5))
    assert np.abs(seen[upper].astype(int) - closed[upper]).max() > 30
    np.testing.assert_array_equal(seen[int(SIZE * 0.6) :], closed[int(SIZE * 0.6) :])


def test_a_small_face_has_no_fine_detail():
    def detail(px):
        picture = render(FACE, motion(), camera(px=px), SIZE)[0].astype(float)
        return np.abs(np.diff(picture, 2, axis=1)).mean()

    assert detail(16) < 0.5 * detail(100)


def test_what_is_in_front_of_a_face_hides_it_for_its_time():
    picture = render(FACE, motion(), camera(occluder=(0.0, 0.5, 0.4, 10, 20)), SIZE).astype(int)
    np.testing.assert_array_equal(picture[0], picture[30])
    assert np.abs(picture[15] - picture[0])[MOUTH].mean() > 5


@pytest.mark.parametrize("name", GESTURES)
def test_faces_that_do_not_speak_move_their_mouths_too(name):
    changes = []
    for seed in range(4):
        moving = motion()
        GESTURES[name](moving, TIMES, np.random.default_rng(seed))
        picture = render(FACE, moving, camera(), SIZE).astype(int)
        changes.append(np.abs(np.diff(picture[:, MOUTH[0], MOUTH[1]], axis=0)).mean())
    assert max(changes) > (0.05 if name == "smiling" else 0.3)
