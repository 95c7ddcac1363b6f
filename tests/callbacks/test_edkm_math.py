"""DKM's tensor functions: the plain form against its definition, the fast forms against the plain one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper_callbacks import dkm as plain
from lightsleeper_callbacks import edkm_chunked, edkm_saved, edkm_table
from lightsleeper_callbacks.dkm import attention, dkm, nearest, rounded, snap
from lightsleeper_callbacks.kmeans import kmeans
from lightsleeper_callbacks.layout import Layout
from torch import Tensor

TAU = 0.02  # of weights with variance 1: between hard and uniform at 8 centroids
BACKENDS = {"chunked": edkm_chunked.dkm, "saved": edkm_saved.dkm, "table": edkm_table.dkm}


def weights(n: int, d: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0, short: bool = True) -> Tensor:
    """(n, d), with values that bfloat16 can hold where ``short``."""
    values = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return (values.bfloat16() if short else values).to(dtype)


def start(k: int, d: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(99), dtype=dtype).sort(0).values


def solved(solve, vectors: Tensor, centroids: Tensor, *args) -> tuple[Tensor, Tensor, Tensor]:
    """Result, last centroids, gradient of a fixed random projection."""
    leaf = vectors.clone().requires_grad_()
    result, end = solve(leaf, centroids, *args)
    upstream = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5)).to(vectors.dtype)
    (grad,) = torch.autograd.grad((result * upstream).sum(), leaf)
    return result.detach(), end, grad


def apart(first: Tensor, second: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((first - second).abs().max() / second.abs().max())


# The plain form.


def test_rows_of_the_attention_map_sum_to_one_and_weights_stay_within_the_centroids():
    w, c = weights(200), start(8)
    assert torch.allclose(attention(w, c, TAU).sum(1), torch.ones(200, dtype=w.dtype), atol=1e-6)
    result, end = dkm(w, c, TAU)
    assert end.min() <= result.min()
    assert result.max() <= end.max()


def test_a_round_at_zero_temperature_is_a_step_of_lloyd():
    w, c = weights(300, 2), start(5, 2)
    _, end = dkm(w, c, 1e-9, iterations=1)
    owner = torch.cdist(w, c).argmin(1)
    means = torch.stack([w[owner == j].mean(0) if (owner == j).any() else c[j] for j in range(5)])
    assert torch.allclose(end, means, atol=1e-12)


def test_a_round_is_a_step_of_em_for_a_mixture_of_variance_half_tau():
    w, c = weights(300), start(4)
    _, end = dkm(w, c, TAU, iterations=1)
    density = torch.distributions.Normal(c.t(), math.sqrt(TAU / 2)).log_prob(w)
    share = torch.softmax(density, 1)
    assert torch.allclose(end, share.t() @ w / share.sum(0)[:, None], atol=1e-12)


def test_once_converged_another_pass_changes_little():
    w, c = weights(500), start(4)
    eps = 1e-6
    first, end = dkm(w, c, TAU, 2000, eps)
    second, again = dkm(w, end, TAU, 2000, eps)
    assert (again - end).abs().max() <= eps
    assert (first - second).abs().max() <= 20 * eps


def test_it_stops_as_soon_as_no_centroid_moves_by_more_than_eps():
    w, c = weights(100), start(4)
    assert torch.equal(dkm(w, c, TAU, 5, math.inf)[1], dkm(w, c, TAU, 1, 0.0)[1])


def test_an_empty_cluster_stays_where_it_is_without_nan():
    w, c = weights(100), torch.tensor([[-1.0], [1.0], [1e4]], dtype=torch.float64)
    for solve in (dkm, *BACKENDS.values()):
        result, end, grad = solved(solve, w, c, TAU, 5, 0.0)
        assert end[2] == 1e4
        assert result.isfinite().all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("solve", [dkm, edkm_chunked.dkm], ids=["dense", "chunked"])
def test_gradients_are_the_derivative(solve, d: int, iterations: int):
    w = weights(12, d).requires_grad_()
    c = start(3, d)
    assert torch.autograd.gradcheck(lambda x: solve(x, c, 0.3, iterations, 0.0)[0], (w,))


# The fast forms against the plain one.


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("fixed", [None, 0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_equals_the_plain_form_in_double_precision(backend: str, fixed: int | None, iterations: int):
    w, c = weights(700), start(8)
    w[:20], w[20:40] = 0.0, -0.0
    if fixed is not None:
        c[fixed] = 0.0
        fixed = torch.arange(8) == fixed
    expected = solved(dkm, w, c, TAU, iterations, 0.0, fixed)
    for found, wanted in zip(solved(BACKENDS[backend], w, c, TAU, iterations, 0.0, fixed), expected, strict=True):
        assert apart(found, wanted) < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.floats(1e-3, 3.0))
def test_the_chunked_form_equals_the_plain_one_for_any_sizes(n: int, k: int, d: int, iterations: int, tau: float):
    w, c = weights(n, d, short=False), start(k, d)
    expected = solved(dkm, w, c, tau, iterations, 0.0)
    for found, wanted in zip(solved(edkm_chunked.dkm, w, c, tau, iterations, 0.0), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-9 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("backend", ["chunked", "table"])
def test_float32_gradients_equal_the_plain_ones_to_a_hundred_thousandth(backend: str):
    w = weights(20_000, dtype=torch.float32)
    c, _ = kmeans(w, 8)
    exact = solved(dkm, w.double(), c.double(), TAU, 5, 0.0)
    for found, wanted in zip(solved(BACKENDS[backend], w, c, TAU, 5, 0.0), exact, strict=True):
        assert apart(found.double(), wanted) < 1e-5


def test_chunks_add_up_to_the_whole(monkeypatch):
    w, c = weights(1000, 2), start(4, 2)
    whole = solved(edkm_chunked.dkm, w, c, TAU)
    monkeypatch.setitem(edkm_chunked.CHUNK, "cpu", 4 * 7)
    for found, wanted in zip(solved(edkm_chunked.dkm, w, c, TAU), whole, strict=True):
        assert apart(found, wanted) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_table_rounds_float32_weights_and_takes_16_bit_ones_as_they_are(dtype: torch.dtype):
    w, c = weights(500, dtype=torch.float32, short=False), start(8, dtype=torch.float32)
    expected = solved(dkm, w.to(dtype).float(), c, TAU, 5, 0.0)
    found = solved(lambda *a: edkm_table.dkm(*a, dtype=dtype), w, c, TAU, 5, 0.0)
    assert apart(found[0], expected[0]) < 1e-5
    assert apart(found[2], expected[2]) < 1e-4
    short = edkm_table.dkm(w.to(dtype), c, TAU, 5, 0.0, dtype=dtype)[0]
    assert short.dtype == dtype
    assert torch.equal(short, found[0].to(dtype))


def test_the_table_knows_one_zero():
    w = torch.tensor([[0.0], [-0.0], [1.0], [-1.0]])
    found = solved(edkm_table.dkm, w, torch.tensor([[-0.9], [0.8]]), TAU, 3, 0.0)
    assert found[0][0] == found[0][1]
    expected = solved(dkm, w, torch.tensor([[-0.9], [0.8]]), TAU, 3, 0.0)
    assert torch.allclose(found[2], expected[2], atol=1e-5)


def test_rounding_passes_the_gradient_on_as_it_is():
    w = weights(50, dtype=torch.float32, short=False).requires_grad_()
    result = rounded(w, torch.bfloat16)
    assert torch.equal(result, w.detach().bfloat16().float())
    upstream = torch.randn(50, 1)
    assert torch.equal(torch.autograd.grad(result, w, upstream)[0], upstream)


def kept_bytes(call) -> int:
    """Bytes that autograd keeps between forward and backward, every storage once, inputs left out."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep = call()
    del keep
    return sum(found.values())


def test_the_fast_forms_save_no_map():
    w, c = weights(1 << 14, dtype=torch.float32).requires_grad_(), start(8, dtype=torch.float32)
    plain_bytes = kept_bytes(lambda: dkm(w, c, TAU, 5, 0.0))
    assert plain_bytes > 5 * 4 * 8 * len(w)
    assert kept_bytes(lambda: edkm_chunked.dkm(w, c, TAU, 5, 0.0)) < 4 * len(w) + 2000
    # A parameter is alive anyway; what is computed is kept in two bytes.
    values = 16 * len(w.detach().unique())
    assert kept_bytes(lambda: edkm_table.dkm(w, c, TAU, 5, 0.0)) < 4 * len(w) + values + 2000
    assert kept_bytes(lambda: edkm_table.dkm(w * 1, c, TAU, 5, 0.0)) < 2 * len(w) + values + 2000


# Snapping.


@pytest.mark.parametrize("d", [1, 2, 5])
def test_snapping_takes_the_nearest_centroid(d: int):
    w, c = weights(400, d), start(7, d)[torch.randperm(7, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(nearest(w, c, budget=50), (w[:, None] - c).square().sum(2).argmin(1))
    assert len(snap(w, c).unique(dim=0)) <= 7


# k-means.


def brute(values: Tensor, k: int) -> float:
    """The least sum of squared errors, over all cuts of the sorted values."""
    from itertools import combinations

    line = values.sort().values
    runs = (([0, *cuts, len(line)]) for cuts in combinations(range(1, len(line)), k - 1))
    return min(sum(float((p := line[a:b]).sub(p.mean()).square().sum()) for a, b in zip(r, r[1:])) for r in runs)  # noqa: B905


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_one_dimensional_k_means_is_the_best_there_is(k: int):
    values = torch.randn(11, generator=torch.Generator().manual_seed(k), dtype=torch.float64).pow(3)
    centroids, error = kmeans(values[:, None], k)
    assert error * 11 == pytest.approx(brute(values, k), abs=1e-9)
    assert torch.equal(centroids, centroids.sort(0).values)


@pytest.mark.parametrize(("k", "best"), [(2, 0.3634), (4, 0.1175), (8, 0.03454), (16, 0.009497)])
def test_normal_weights_get_the_error_of_lloyd_and_max(k: int, best: float):
    values = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    assert kmeans(values, k)[1] == pytest.approx(best, rel=0.03)


def test_256_centroids_come_close_to_the_best():
    values = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    assert kmeans(values, 256)[1] < 1.15 * 2.72 / 256**2  # Panter and Dite: sqrt(3) pi / 2 / k^2


def test_k_means_gives_the_same_for_the_same_weights():
    for w in (weights(3000, 1), weights(3000, 4)):
        assert torch.equal(kmeans(w, 16)[0], kmeans(w.clone(), 16)[0])


def test_vectors_are_served_better_than_by_chance():
    w = weights(2000, 2)
    drawn = w[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))[:16]]
    by_chance = (w - snap(w, drawn)).square().mean()
    assert kmeans(w, 16)[1] < 0.6 * by_chance


def test_zero_gets_a_centroid_and_takes_none_of_the_others():
    w = weights(1000)
    w[:700] = 0
    centroids, error = kmeans(w, 8, zero=True)
    assert centroids[0] == 0
    alone, alone_error = kmeans(w[700:], 7)
    assert torch.equal(centroids[1:], alone)
    assert error == pytest.approx(alone_error)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0], [1.0, 2.0, 2.0]])
def test_fewer_values_than_centroids_are_met_exactly(values: list[float]):
    w = torch.tensor(values)[:, None]
    for zero in (False, True):
        centroids, error = kmeans(w, 8, zero)
        assert centroids.shape == (8, 1)
        assert error == 0
        assert torch.equal(snap(w, centroids), w)
        result, _, grad = solved(edkm_table.dkm, w, centroids, 1e-6)
        assert torch.allclose(result, w)
        assert grad.isfinite().all()


# Layouts.


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 6)), st.booleans(),
)  # fmt: skip
def test_a_weight_comes_back_from_its_groups(a: int, b: int, c: int, dim: int, group: int | None, transposed: bool):
    layout = Layout(3, dim, group, transposed)
    weight = torch.arange(a * b * c).view(a, b, c).float()
    parts = layout.split(weight)
    assert torch.equal(layout.join(parts, weight.shape), weight)
    assert [len(part) for part in parts] == layout.sizes(weight.shape)


def test_a_group_holds_whole_output_channels():
    weight = torch.arange(12).view(3, 4)
    assert [p.tolist() for p in Layout(3, 1, 2).split(weight)] == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]]
    first = Layout(3, 1, 2, transposed=True).split(weight)[0]
    assert first.tolist() == [0, 4, 8, 1, 5, 9]


def test_stored_bytes_are_indices_tables_and_tails():
    assert Layout(3).stored_bytes((1024, 1024)) == 1024 * 1024 * 3 // 8 + 8 * 4
    assert Layout(4, 3).stored_bytes((5, 5)) == math.ceil(8 * 4 / 8) + 16 * 3 * 4 + 1 * 4
    assert Layout(2, 1, 2).stored_bytes((5, 3)) == math.ceil(15 * 2 / 8) + 3 * 4 * 4


def test_the_plain_form_is_used_nowhere_else():
    assert plain.dkm is edkm_saved.plain_dkm
