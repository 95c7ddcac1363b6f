"""What training clips of a wake word are put together from: pieces of the corpus and of recordings."""

from collections.abc import Sequence

from lightsleeper.data.corpus import Corpus
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.wake_clips import Pieces, corpus_pieces, recorded_piece
from lightsleeper.data.wake_recordings import Recordings
from lightsleeper.errors import UserError

_FITTING = 0.8  # share of the phrase's clips that must fit into a training clip
_SPARE_S = 0.1  # of a training clip around its phrase


def spoken_pieces(corpus: Corpus) -> Pieces:
    """Of the corpus, with phones."""
    lexicon = Lexicon.default()
    phones = {text: [lexicon.word(word) for word in text.split()] for text in set(corpus.texts)}
    keyword, near, speech = (corpus_pieces(corpus, f"train {kind}", phones) for kind in ("keyword", "near", "speech"))
    return Pieces(keyword, near, speech)


def recorded_pieces(recordings: Recordings) -> Pieces:
    """Of people, without phones; none of theirs counts as near."""
    sides = (recordings.positives["train"], recordings.negatives["train"])
    keywords, speech = ([recorded_piece(recordings.clips, clip) for clip in clips] for clips in sides)
    return Pieces(keywords, (), speech)


def fitting(origins: Sequence[Pieces], clip_seconds: float, phrase: str) -> tuple[list[Pieces], int]:
    """The same without keywords that are longer than a training clip, and how many those were.

    Raises UserError where they are too many.
    """
    room = clip_seconds - _SPARE_S
    kept = [
        Pieces([piece for piece in origin.keywords if piece.end_s - piece.begin_s <= room], origin.near, origin.speech)
        for origin in origins
    ]
    total, left = (sum(len(origin.keywords) for origin in some) for some in (origins, kept))
    if left < _FITTING * total:
        raise UserError(
            f"{total - left} of {total} takes of '{phrase}' are longer than clip_seconds {clip_seconds}: raise it."
        )
    return kept, total - left
