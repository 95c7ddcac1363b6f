import numpy as np
import pytest
from lightsleeper.data.lexicon import Lexicon, edit_distance
from lightsleeper.data.wake_script import PARTS, WakeSpec, near_phrases, sentences, split_near, write_script
from lightsleeper.errors import UserError

PHRASE = "hey firefly"
SPEC = WakeSpec(PHRASE, (6, 3, 4), (5, 2, 3), (10, 4, 4), 40, 18, 9, 0)


def test_near_phrases_sound_nearly_but_never_quite_like_the_phrase():
    near = near_phrases(PHRASE, 40)
    lexicon = Lexicon.default()
    own = lexicon.pronounce(PHRASE).phones
    distances = [edit_distance(own, lexicon.pronounce(text).phones) for text in near]
    assert len(near) == 40
    assert min(distances) == 1
    assert len({tuple(lexicon.pronounce(text).phones) for text in near}) == 40
    assert {"hey", "firefly"} <= set(near)  # parts of it
    assert any(text.startswith("hey ") for text in near)
    assert any(text.endswith(" firefly") for text in near)


@pytest.mark.parametrize("phrase", ["jarvis", "turn on the light"])
def test_phrases_of_any_length_have_near_ones(phrase: str):
    near = near_phrases(phrase, 20)
    assert len(near) == 20
    assert phrase not in near


def test_a_near_phrase_never_holds_the_whole_phrase():
    assert not [text for text in near_phrases("smart mirror", 80) if text.startswith("smart mirror")]


def test_each_part_has_near_phrases_of_its_own():
    parts = split_near(near_phrases(PHRASE, 40), seed=0)
    assert [len(parts[part]) for part in PARTS] == [24, 6, 10]
    assert len(set().union(*parts.values())) == 40
    with pytest.raises(UserError, match="only 3 phrases lie near"):
        split_near(["a", "b", "c"], 0)


def test_running_speech_never_holds_the_sounds_of_the_phrase():
    lexicon = Lexicon.default()
    found = sentences("the", 200, np.random.default_rng(0), lexicon)
    for text in found:
        phones = lexicon.pronounce(text).phones
        own = lexicon.pronounce("the").phones
        assert all(phones[i : i + len(own)] != own for i in range(len(phones)))
    assert all(2 <= len(text.split()) <= 8 for text in found)


def test_a_script_is_dry_complete_and_shares_no_voice_between_parts():
    lines = write_script(SPEC)
    assert lines == write_script(SPEC)
    assert len(lines) == SPEC.clips
    assert all(line.dry for line in lines)
    for number, part in enumerate(PARTS):
        kinds = [line.part for line in lines if line.part.startswith(part)]
        for kind, counts in (("keyword", SPEC.keywords), ("near", SPEC.near), ("speech", SPEC.speech)):
            assert kinds.count(f"{part} {kind}") == counts[number]
    voices = {part: {line.voice for line in lines if line.part.startswith(part)} for part in PARTS}
    assert not voices["train"] & voices["val"]
    assert not voices["train"] & voices["test"]
    assert {line.text for line in lines if line.part.endswith("keyword")} == {PHRASE}
