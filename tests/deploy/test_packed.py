"""Packed files: exact, as small as the formula says, refused when damaged."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy import packed
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.deploy.packed import check_equal, pack, pack_bits, read, unpack, unpack_bits
from lightsleeper.deploy.palette import BITS_OF, palette
from lightsleeper.errors import UserError
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.layout import Layout
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def drawn(shape: tuple[int, ...], layout: Layout, seed: int = 0) -> Tensor:
    """A weight of random codes: all entries used in every group."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in layout.sizes(shape):
        table = torch.randn(layout.entries, layout.dim, generator=generator)
        count = size // layout.dim
        codes = torch.cat([torch.arange(layout.entries), torch.randint(layout.entries, (count,), generator=generator)])
        tail = torch.randn(size % layout.dim, generator=generator)
        parts.append(torch.cat([table[codes[:count]].view(-1), tail]))
    return layout.join(parts, shape)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=70))
def test_codes_come_back_from_their_bits(bits: int, codes: list[int]):
    given_codes = torch.tensor([code % (1 << bits) for code in codes], dtype=torch.uint8)
    stored = pack_bits(given_codes, bits)
    assert len(stored) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack_bits(stored, bits, len(codes)), given_codes)


def test_the_lowest_bits_come_first():
    assert pack_bits(torch.tensor([1, 2, 3], dtype=torch.uint8), 3).tolist() == [1 | 2 << 3 | (3 << 6) & 255, 3 >> 2]


LAYOUTS = [
    Layout(1), Layout(3), Layout(8), Layout(5, 2), Layout(4, 4), Layout(4, 16), Layout(3, 3), Layout(3, 1, 8),
    Layout(3, 1, 12), Layout(4, 2, 16), Layout(2, 1, 8, transposed=True), Layout(4, 2, None, transposed=True),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_layout_is_found_in_the_weights_and_they_come_back_exactly(layout: Layout, tmp_path):
    module = nn.Linear(160, 70, bias=False)
    module.weight.data = drawn((70, 160), layout)
    facts = pack(module, tmp_path / "packed.safetensors")
    assert facts["payload_bytes"] == layout.stored_bytes((70, 160))
    (entry,) = facts["clustered"].values()
    assert (entry["bits"], entry["dim"]) == (layout.bits, layout.dim)
    assert torch.equal(unpack(tmp_path / "packed.safetensors", nn.Linear(160, 70, bias=False)).weight, module.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_float_type_comes_back_bit_for_bit(dtype: torch.dtype):
    weight = drawn((64, 64), Layout(3)).to(dtype)
    weight[0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    found = palette(weight)
    assert found is not None
    packed_codes = pack_bits(found.codes, found.layout.bits)
    again = packed.unpalette(found.layout, packed_codes, found.tables, found.tail, list(weight.shape))
    assert again.dtype == dtype
    bits = BITS_OF[weight.element_size()]
    assert torch.equal(again.view(bits), weight.view(bits))


def smallest_by_trial(weight: Tensor) -> int:
    """Bytes of the best layout, each tried on its own; the plain weight's where none is better."""
    best = weight.numel() * 4
    for transposed in (False, True):
        rows = (weight.T if transposed else weight).flatten(1)
        for dim in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16):
            sizes = [None, *range(1, len(rows))] if rows.shape[1] % dim == 0 else [None]
            for size in sizes if weight.numel() >= 2 * dim else []:
                layout = Layout(1, dim, size, transposed)
                parts = [part[: len(part) // dim * dim].view(-1, dim) for part in layout.split(weight)]
                most = max(len(part.unique(dim=0)) for part in parts)
                bits = max(1, (most - 1).bit_length())
                best = min(best, layout._replace(bits=bits).stored_bytes(weight.shape))
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2), st.integers(0, 99))
def test_no_layout_is_smaller_than_the_one_that_is_found(rows: int, inputs: int, kinds: int, scale: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, rows + 1)[:, None] ** scale  # values of a row of its own, or of all
    weight = (torch.randint(kinds, (rows, inputs), generator=generator) * scales).float()
    found = palette(weight)
    size = rows * inputs * 4 if found is None else found.layout.stored_bytes(weight.shape)
    assert size == smallest_by_trial(weight)


def test_random_weights_and_small_ones_stay_as_they_are():
    assert palette(torch.randn(300, 300)) is None
    assert palette(torch.ones(1, 2)) is None
    assert palette(torch.zeros(50)) is None
    assert palette(torch.zeros(50, 50, dtype=torch.long)) is None
    assert palette(torch.randn(300, 300).bfloat16()) is None


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(200, 64), nn.BatchNorm1d(64), nn.Linear(64, 200)
        self.head.weight = self.embed.weight
        self.conv = nn.Conv1d(64, 64, 3)


def test_tied_weights_are_stored_once_and_the_rest_as_it_is(tmp_path):
    path, module = tmp_path / "packed.safetensors", Tied()
    module.embed.weight.data = drawn((200, 64), Layout(4))
    facts = pack(module, path)
    assert list(facts["clustered"]) == ["embed.weight"]
    rest = {k: v for k, v in module.state_dict().items() if k not in ("embed.weight", "head.weight")}
    raw = sum(v.numel() * v.element_size() for v in rest.values())
    assert facts["payload_bytes"] == Layout(4).stored_bytes((200, 64)) + raw
    loaded = unpack(path, Tied())
    assert loaded.head.weight is loaded.embed.weight
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_the_payload_is_what_the_file_holds(tmp_path):
    path, module = tmp_path / "packed.safetensors", Tied()
    module.conv.weight.data = drawn((64, 64, 3), Layout(3))
    facts = pack(module, path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + header + facts["payload_bytes"]
    assert facts["share"] == pytest.approx(64 * 64 * 3 * 4 / sum(v.numel() * v.element_size() for k, v in
                                           module.state_dict().items() if k != "head.weight"))  # fmt: skip


@pytest.mark.parametrize("arguments", [{}, {"bits": 4, "cluster_dim": 2}, {"group_size": 8}, {"cluster_dim": 7}])
def test_the_report_of_clustering_is_the_size_of_the_file(arguments: dict, tmp_path):
    from lightsleeper_callbacks import finalize as bake

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(96, 160), nn.ReLU(), nn.Linear(160, 50), nn.Embedding(300, 40)).train()
    edkm = EDKMClustering(small_below=0, **arguments)
    edkm.prepare_once(module)
    edkm.step(module, 0.0)
    final, _, report = bake(module, [edkm])
    facts = pack(final, tmp_path / "packed.safetensors")
    assert facts["payload_bytes"] == report["EDKMClustering"]["compress/bytes"]
    assert len(facts["clustered"]) == 3
    assert facts["share"] == pytest.approx(report["EDKMClustering"]["compress/share"])


def test_a_saved_family_is_packed_and_gives_the_same_outputs(matcher, tmp_path, pairs):
    from tiny_matcher import TinyMatcher

    final, _ = finalize(matcher, {"nothing": object()})  # type: ignore[dict-item]
    with torch.no_grad():
        final.frame.weight.copy_(drawn(tuple(final.frame.weight.shape), Layout(2)))
    save_model(final, tmp_path, {})
    loaded = load_model(tmp_path)
    pack(loaded, tmp_path / "packed.safetensors")
    again = unpack(tmp_path / "packed.safetensors", TinyMatcher().eval())
    assert torch.equal(again.score(pairs)["shipped"], loaded.score(pairs)["shipped"])


def test_export_writes_it_behind_the_headline_graph(matcher, tmp_path, monkeypatch):
    monkeypatch.setattr("lightsleeper.deploy.export.write_graphs", lambda *_: [{"format": "onnx"}] * 2)
    artifacts = export(matcher, tmp_path, ["packed", "onnx"])
    assert [artifact["format"] for artifact in artifacts] == ["onnx", "onnx", "packed"]
    entry = artifacts[-1]
    assert (entry["format"], entry["path"]) == ("packed", "packed.safetensors")
    assert entry["parity"]["max_abs_diff"] == 0.0
    assert entry["bytes"] == (tmp_path / "packed.safetensors").stat().st_size
    check_equal(tmp_path / "packed.safetensors", matcher.state_dict())


def test_a_file_that_gives_back_other_weights_is_refused(matcher, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "read", lambda path: {k: v + 1 for k, v in matcher.state_dict().items()})
    with pytest.raises(UserError, match="does not give back"):
        export(matcher, tmp_path, ["packed"])
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path, module = tmp_path / "packed.safetensors", nn.Linear(64, 64)
    module.weight.data = drawn((64, 64), Layout(3))
    pack(module, path)
    with pytest.raises(UserError, match="does not fit Linear"):
        unpack(path, nn.Linear(64, 63))
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"weight.codes": tensors["weight.codes"][:-1].clone()}, path, metadata)
    with pytest.raises(UserError, match="cannot be read: a tensor of shape"):
        read(path)
    entry = json.loads(metadata["clustered"])
    entry["weight"]["wrong"] = 1
    save_file(tensors, path, metadata | {"clustered": json.dumps(entry)})
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    save_file(tensors, path)
    with pytest.raises(UserError, match="is not a packed model"):
        read(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none")
