"""Times of one layer that are linear in tokens and products, for tests of the simulator and the search."""

from dataclasses import dataclass


@dataclass
class Times:
    layers: int = 6
    token: float = 1e-4
    attention: float = 1e-7
    own_keys: float = 3e-5
    embed: float = 1e-6
    head_s: float = 2e-3

    def embedding(self, own: int) -> float:
        return self.embed * own

    def keys(self, own: int) -> float:
        return self.own_keys * own

    def rest(self, own: int, before: int) -> float:
        return self.token * own + self.attention * (own * before + own * own / 2)

    def head(self) -> float:
        return self.head_s


def size(layer: int, tokens: int) -> int:
    """Bytes of a layer's prefix: one head of 64 in half precision."""
    return 2 * tokens * 64 * 2
