"""The same number of items of every stream, within the time, and going on from earlier values."""

import math

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.reproduction import plan
from pymultiling.methods.reproduction.detection_rounds import DETECTION
from pymultiling.methods.reproduction.measured import Measured, sets_digest
from pymultiling.methods.reproduction.plan import Stream, TimeLimit, measure_evenly
from pymultiling.neurons.importance_statistics import NeuronStatistics


class Clock:
    """A clock that moves only when `measure` says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(plan.time, "monotonic", lambda: self.now)

    def stream(self, name: str, count: int, seconds: float, calls: list | None = None) -> Stream:
        """Returns a stream whose items take so many seconds. The value of item i is [i, i + 0.5]."""

        def measure(start: int, stop: int) -> torch.Tensor:
            self.now += seconds * (stop - start)
            if calls is not None:
                calls.append((name, start, stop))
            return torch.tensor([[i, i + 0.5] for i in range(start, stop)], dtype=torch.float64)

        return Stream(name, count, measure)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def open_measured(tmp_path, **settings) -> Measured:
    return Measured(tmp_path / "measured", settings)


def counts(measured: Measured, *streams: Stream) -> list[int]:
    return [measured.count(stream.name) for stream in streams]


def test_without_a_limit_all_items_are_measured_once(tmp_path, clock):
    calls = []
    streams = [clock.stream("a", 20, 1, calls), clock.stream("b", 11, 1, calls)]
    measured = open_measured(tmp_path)
    assert measure_evenly("test", streams, measured, TimeLimit(), progress=False) is None
    assert counts(measured, *streams) == [20, 11]
    assert measured.values("a")[:, 0].tolist() == list(range(20))
    assert sum(stop - start for _, start, stop in calls) == 31


def test_a_limit_gives_every_stream_the_same_number_of_items(tmp_path, clock):
    """One item of each takes 4 s, so 25 s hold six of each."""
    streams = [clock.stream("a", 50, 1), clock.stream("b", 50, 3)]
    measured = open_measured(tmp_path)
    assert measure_evenly("test", streams, measured, TimeLimit(clock.now + 25), progress=False) is None
    assert counts(measured, *streams) == [6, 6]
    assert clock.now <= 1025


def test_a_later_run_goes_on(tmp_path, clock):
    streams = [clock.stream("a", 50, 1), clock.stream("b", 50, 3)]
    measure_evenly("test", streams, open_measured(tmp_path), TimeLimit(clock.now + 25), progress=False)
    calls = []
    streams = [clock.stream("a", 50, 1, calls), clock.stream("b", 50, 3, calls)]
    measured = open_measured(tmp_path)
    assert measure_evenly("test", streams, measured, TimeLimit(), progress=False) is None
    assert min(start for _, start, _ in calls) == 6
    assert measured.values("b")[:, 1].tolist() == [i + 0.5 for i in range(50)]


def test_an_item_that_does_not_fit_is_found_after_the_first_stream(tmp_path, clock):
    streams = [clock.stream(name, 5, 10) for name in "abcd"]
    measured = open_measured(tmp_path)
    reason = measure_evenly("test", streams, measured, TimeLimit(clock.now + 30), progress=False)
    assert reason == "the first items would take about 40 s, more than --minutes leaves"
    assert counts(measured, *streams) == [1, 0, 0, 0]  # a longer run goes on from it
    assert measure_evenly("test", streams, measured, TimeLimit(clock.now - 1), progress=False) == "no time was left"


def test_a_part_that_is_needed_is_measured_in_any_case(tmp_path, clock):
    streams = [clock.stream(name, 5, 10) for name in "ab"]
    measured = open_measured(tmp_path)
    assert measure_evenly("test", streams, measured, TimeLimit(clock.now - 1), at_least=1, progress=False) is None
    assert counts(measured, *streams) == [1, 1]


def test_an_interrupted_round_goes_on_where_it_was(tmp_path, clock):
    first, second = clock.stream("a", 10, 1), clock.stream("b", 10, 1)

    def fail(*_):
        raise KeyboardInterrupt

    measured = open_measured(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measure_evenly("test", [first, Stream("b", 10, fail)], measured, TimeLimit(), progress=False)
    measured = open_measured(tmp_path)
    assert counts(measured, first, second) == [8, 0]
    measure_evenly("test", [first, second], measured, TimeLimit(), progress=False)
    assert torch.equal(measured.values("a"), measured.values("b"))


def test_a_part_of_the_time_is_a_fraction_of_what_is_left(clock):
    limit = TimeLimit(clock.now + 100)
    clock.now += 20
    assert limit.part(0.25).left == pytest.approx(20)
    assert math.isinf(TimeLimit().part(0.25).left)
    clock.now += 100
    assert limit.part(0.25).left == 0


def test_values_of_other_settings_are_refused(tmp_path):
    open_measured(tmp_path, model="a", languages=["en", "fr"])
    open_measured(tmp_path, model="a", languages=("en", "fr"))
    with pytest.raises(pml.CheckpointError, match="measured has what a run with another model measured: give --out"):
        open_measured(tmp_path, model="b", languages=["en", "fr"])


def test_a_damaged_block_is_named(tmp_path, clock):
    measure_evenly("test", [clock.stream("a", 3, 1)], open_measured(tmp_path), TimeLimit(), progress=False)
    (tmp_path / "measured" / "a" / "000000-000003.safetensors").write_bytes(b"no")
    with pytest.raises(pml.CheckpointError, match=r"000000-000003\.safetensors"):
        open_measured(tmp_path).count("a")


def test_statistics_of_the_last_complete_round_are_read(tmp_path):
    measured = open_measured(tmp_path)
    statistics = {
        name: NeuronStatistics.of_batch(
            {"ffn": torch.rand(2, 1, 5)}, {"ffn": torch.ones(2, 1, 5, dtype=torch.bool)}, 9, "rule"
        )
        for name in ("en", "fr")
    }
    assert measured.statistics(statistics, DETECTION) == (0, {})
    measured.keep_statistics(3, statistics)
    measured.keep_statistics(4, {"en": statistics["en"] + statistics["en"], "fr": statistics["fr"] + statistics["fr"]})
    (tmp_path / "measured" / "detection" / "000005").mkdir()  # was not complete when the run ended
    rounds, found = open_measured(tmp_path).statistics(statistics, DETECTION)
    assert rounds == 4 and found["fr"].documents == 4
    assert not (tmp_path / "measured" / "detection" / "000003").exists()


def test_the_digest_changes_with_members_and_order():
    one, two = (pml.NeuronSet({"ffn": torch.eye(3, dtype=torch.bool)[[row]]}) for row in (0, 1))
    digests = [sets_digest(sets) for sets in ([one], [two], [one, two], [two, one], [None, one], [one, None])]
    assert len(set(digests)) == len(digests)
    assert sets_digest([one]) == digests[0]
