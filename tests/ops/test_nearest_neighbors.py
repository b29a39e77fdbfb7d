"""nearest_neighbors on every backend against the float64 distances of all pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pymultiling import triton_kernels
from pymultiling.errors import BackendUnavailable
from pymultiling.ops import nearest_neighbors, unavailable
from pymultiling.ops.registry import MAX_TRITON_NEIGHBORS
from tests.support.backends import KERNEL_DEVICE
from tests.support.distances import all_distances, rounding
from tests.support.operator_inputs import dtypes, examples, is_interpreted, layouts, matrix

METRICS = ("cosine", "euclidean")

metrics = pytest.mark.parametrize("metric", METRICS)


def expected(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Returns the neighbours' indices and distances by brute force, (P, k), in the dtypes of the operator's results."""
    values, indices = all_distances(points, metric).sort(dim=1, stable=True)
    return indices[:, :k], values[:, :k].to(torch.promote_types(points.dtype, torch.float32))


def check(points: Tensor, k: int, metric: str, backend: str) -> None:
    """Checks that distances are those of the indices and ascend, and that no other point is nearer beyond rounding."""
    indices, distances = nearest_neighbors(points, k, metric=metric, backend=backend)
    assert indices.dtype == torch.int64 and indices.shape == distances.shape == (len(points), k)
    assert distances.dtype == torch.promote_types(points.dtype, torch.float32)
    exact = all_distances(points, metric)
    double = distances.double()
    tolerance = 1e-12 if points.dtype == torch.float64 else 2e-7
    torch.testing.assert_close(double, exact.gather(1, indices), rtol=tolerance, atol=tolerance)
    power, allowed = 1 if metric == "cosine" else 2, rounding(points, metric)
    neighbor_distances = exact.gather(1, indices) ** power
    nearest_left_out = exact.scatter(1, indices, torch.inf).min(1).values ** power
    assert (neighbor_distances[:, 1:] - neighbor_distances[:, :-1] >= -allowed).all()
    assert (neighbor_distances[:, -1] - nearest_left_out <= allowed).all()
    same = (points[indices[:, 1:]] == points[indices[:, :-1]]).all(2)
    assert (~same | (indices[:, 1:] > indices[:, :-1])).all()


@examples
@given(st.data(), st.sampled_from(METRICS), layouts, st.integers(0, 99))
def test_equals_brute_force_up_to_rounding(backend, data, metric, layout, seed):
    count = data.draw(
        st.sampled_from([2, 3, 63, 129] if is_interpreted(backend) else [2, 3, 7, 63, 191, 192, 193, 400])
    )
    size = data.draw(st.sampled_from([1, 2, 33, 64] if is_interpreted(backend) else [1, 2, 7, 33, 256, 257, 600]))
    dtype = data.draw(st.sampled_from(dtypes(backend)))
    largest_k = min(count - 1, 13) if backend == "triton" else count - 1
    check(matrix(seed, count, size, dtype, layout), data.draw(st.integers(1, largest_k)), metric, backend)


@metrics
def test_indices_equal_brute_force_where_distances_differ(backend, metric):
    for dtype in dtypes(backend):
        points = matrix(3, 150, 40, dtype)
        actual = nearest_neighbors(points, 5, metric=metric, backend=backend)
        indices, distances = expected(points, 5, metric)
        assert torch.equal(actual[0], indices)
        torch.testing.assert_close(actual[1], distances, rtol=3e-7, atol=2e-7)


@metrics
def test_duplicates_are_neighbours_lowest_index_first(backend, metric):
    """There are many more duplicates than k, at every position of the kernels' tiles."""
    for dtype, count in ((dtype, count) for dtype in dtypes(backend) for count in (70, 150, 401)):
        if is_interpreted(backend) and count > 70:
            continue
        points = matrix(count, count, 37, dtype)
        kinds = torch.randint(0, 12, (count,))
        copied = kinds < 9
        points[copied] = matrix(0, 9, 37, dtype)[kinds[copied]]
        indices, distances = nearest_neighbors(points, 4, metric=metric, backend=backend)
        expected_indices, values = expected(points, 4, metric)
        assert torch.equal(indices, expected_indices), dtype
        torch.testing.assert_close(distances, values, rtol=1e-6, atol=2e-7)
        for i in copied.nonzero().flatten().tolist():
            twins = [j for j in (kinds == kinds[i]).nonzero().flatten().tolist() if j != i and kinds[i] < 9]
            assert indices[i, : len(twins[:4])].tolist() == twins[:4]
            assert not distances[i, : len(twins[:4])].any()


@metrics
def test_of_equal_points_the_first_are_the_neighbours(backend, metric):
    count = 66 if is_interpreted(backend) else 500
    for points in (torch.randn(1, 19).repeat(count, 1), torch.full((count, 3), 1e3)):
        indices, distances = nearest_neighbors(points, 3, metric=metric, backend=backend)
        assert indices[:4].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
        assert (indices[4:] == torch.arange(3)).all() and not distances.any()


def test_neighbours_at_equal_distances_are_in_the_order_of_their_indices(backend):
    """On a grid of integers distances are exact."""
    side = 6 if is_interpreted(backend) else 20
    points = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float() + 1000
    for k in (2, 4, 6)[: 1 if is_interpreted(backend) else 3]:
        actual = nearest_neighbors(points, k, metric="euclidean", backend=backend)
        assert all(map(torch.equal, actual, expected(points, k, "euclidean")))
    directions = torch.eye(20 if is_interpreted(backend) else 90)  # all others are equally far
    for metric in METRICS:
        actual = nearest_neighbors(directions, 5, metric=metric, backend=backend)
        assert all(map(torch.equal, actual, expected(directions, 5, metric)))


@metrics
@pytest.mark.parametrize("count, k", [(2, 1), (3, 2), (12, 11), (17, 16), (40, 39)])
def test_up_to_all_other_points_are_neighbours(backend, metric, count, k):
    if backend == "triton" and k > MAX_TRITON_NEIGHBORS:
        pytest.skip("the kernel does not support so many neighbours")
    points = matrix(0, count, 5, torch.float32)
    actual = nearest_neighbors(points, k, metric=metric, backend=backend)
    assert torch.equal(actual[0].sort().values, expected(points, k, metric)[0].sort().values)
    check(points, k, metric, backend)


def test_more_neighbours_than_the_triton_kernel_supports_are_refused():
    reason = unavailable("triton")
    if reason is not None:
        pytest.skip(reason)
    from pymultiling.triton_kernels.nearest_neighbors import MAX_NEIGHBORS

    assert MAX_NEIGHBORS == MAX_TRITON_NEIGHBORS
    points = matrix(0, 20, 5, torch.float32).to("cpu" if triton_kernels.interpreted() else KERNEL_DEVICE)
    with pytest.raises(BackendUnavailable) as error:
        nearest_neighbors(points, 17, backend="triton")
    assert str(error.value) == (
        'backend="triton" cannot run nearest_neighbors: its kernel takes k up to 16, not 17; backend="torch" always can'
    )


@metrics
def test_small_clusters_are_the_neighbours_of_their_points(backend, metric):
    """The clusters have no more points than there are candidates, and some are near the origin."""
    centres = matrix(0, 30, 24, torch.float32) * torch.logspace(-3, 3, 30)[:, None]
    points = (centres[:, None] * (1 + 1e-3 * torch.randn(30, 4, 24))).flatten(0, 1)
    check(points, 3, metric, backend)
    cluster = nearest_neighbors(points[80:], 3, metric=metric, backend=backend)[0] // 4
    assert (cluster == (torch.arange(40) // 4)[:, None]).all()


@metrics
@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4, 1e-6])
def test_neighbours_in_clusters_of_more_points_than_candidates_are_exact(backend, metric, spread):
    clusters, members = (3, 14) if is_interpreted(backend) else (8, 30)
    centres = torch.nn.functional.normalize(matrix(1, clusters, 24, torch.float32))
    points = centres.repeat_interleave(members, 0) + spread * matrix(2, clusters * members, 24, torch.float32)
    points[[7, 40]] = points[[3, 30]]
    actual = nearest_neighbors(points, 5, metric=metric, backend=backend)
    indices, distances = expected(points, 5, metric)
    assert torch.equal(actual[0], indices)
    torch.testing.assert_close(actual[1], distances, rtol=2e-7, atol=0)


@metrics
@pytest.mark.parametrize("common", [1e2, 1e4, 1e6])
def test_neighbours_are_exact_if_a_dimension_is_large_in_all_points(backend, metric, common):
    points = matrix(5, 66 if is_interpreted(backend) else 300, 40, torch.float32)
    points[:, 7] += common
    assert torch.equal(nearest_neighbors(points, 5, metric=metric, backend=backend)[0], expected(points, 5, metric)[0])


def test_points_far_from_the_origin_keep_their_digits(backend):
    points = matrix(0, 150, 20, torch.float32) + 1000
    actual = nearest_neighbors(points, 5, metric="euclidean", backend=backend)
    indices, distances = expected(points, 5, "euclidean")
    assert torch.equal(actual[0], indices)
    torch.testing.assert_close(actual[1], distances, rtol=2e-7, atol=0)


def test_an_outlier_does_not_change_the_other_neighbours(backend):
    points = matrix(0, 150, 20, torch.float32)
    points[0] = 1e3
    actual = nearest_neighbors(points, 5, metric="euclidean", backend=backend)
    assert torch.equal(actual[0], expected(points, 5, "euclidean")[0])


def test_zero_vectors_have_cosine_distance_1_to_all_points(backend):
    points = matrix(0, 100, 20, torch.float32)
    points[[3, 50, 99]] = 0
    indices, distances = nearest_neighbors(points, 4, backend=backend)
    assert indices[3].tolist() == [0, 1, 2, 4] and indices[50].tolist() == indices[99].tolist() == [0, 1, 2, 3]
    assert (distances[[3, 50, 99]] == 1).all()
    check(points, 4, "cosine", backend)
    check(points, 4, "euclidean", backend)


@metrics
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_of_the_points_does_not_change_the_neighbours(backend, metric, scale):
    points = matrix(0, 90, 20, torch.float32)
    scaled = nearest_neighbors(points * scale, 3, metric=metric, backend=backend)
    assert torch.equal(scaled[0], nearest_neighbors(points, 3, metric=metric, backend=backend)[0])
    torch.testing.assert_close(scaled[1], expected(points * scale, 3, metric)[1], rtol=1e-6, atol=2e-7)


@metrics
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e37])
def test_neighbours_are_exact_if_squares_are_outside_the_range_of_float32(backend, metric, scale):
    if backend == "triton":
        pytest.skip("Triton kernels square in float32")
    points = matrix(0, 90, 20, torch.float32) * scale
    indices, _ = expected(points, 3, metric)
    assert torch.equal(nearest_neighbors(points, 3, metric=metric, backend=backend)[0], indices)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # from NumPy in Triton's interpreter
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@metrics
def test_points_that_are_not_finite_are_refused_or_have_no_neighbours(backend, metric, wrong):
    """The first points are equal and too many for the first kernel, so that the second one looks at all points."""
    points = matrix(0, 70, 20, torch.float32)
    points[:20] = points[0]
    points[64, 3] = wrong
    if points.is_cuda:
        indices, distances = nearest_neighbors(points, 3, metric=metric, backend=backend)
    else:
        with pytest.raises(ValueError, match="finite"):
            nearest_neighbors(points, 3, metric=metric, backend=backend)
        if backend != "triton":
            return
        from pymultiling.triton_kernels.nearest_neighbors import nearest_neighbors as launch

        indices, distances = launch(points, 3, metric)
    assert (indices[64] == -1).all() and distances[64].isnan().all()
    rest = torch.arange(70) != 64
    expected_indices = expected(points[rest], 3, metric)[0]
    assert torch.equal(indices[rest], expected_indices + (expected_indices >= 64))


@pytest.mark.parametrize(
    "points, k, metric",
    [
        (torch.ones(3), 1, "cosine"),
        (torch.ones(3, 0), 1, "cosine"),
        (torch.ones(3, 2).int(), 1, "cosine"),
        (torch.ones(3, 2), 0, "cosine"),
        (torch.ones(3, 2), 3, "cosine"),
        (torch.ones(1, 2), 1, "cosine"),
        (torch.ones(0, 2), 1, "cosine"),
        (torch.ones(3, 2), 1, "manhattan"),
    ],
)
def test_wrong_arguments_are_refused(points, k, metric):
    with pytest.raises(ValueError, match="must be"):
        nearest_neighbors(points, k, metric=metric)


@metrics
def test_the_number_of_threads_changes_nothing(backend, metric, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    points = matrix(0, 900, 70, torch.float32).repeat(2, 1)
    two = nearest_neighbors(points, 5, metric=metric, backend=backend)
    torch.set_num_threads(1)
    assert all(map(torch.equal, two, nearest_neighbors(points, 5, metric=metric, backend=backend)))


def test_is_a_torch_operator_and_compiles():
    for points in (matrix(0, 9, 5, torch.float32), matrix(0, 9, 5, torch.float64)):
        torch.library.opcheck(torch.ops.pymultiling.nearest_neighbors.default, (points, 2, "cosine"))
    compiled = torch.compile(lambda x: nearest_neighbors(x, 3)[1] + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(points), nearest_neighbors(points, 3)[1] + 1)
