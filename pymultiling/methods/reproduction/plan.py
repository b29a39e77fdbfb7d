"""What the reproductions share: the time limit, measuring the same number of items everywhere, and what differs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pymultiling.mathematics.bootstrap import percentile_interval
from pymultiling.methods.reproduction.measured import Measured
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

BLOCK = 8  # items that are measured, and written, at a time


class TimeLimit:
    """The time that is left for a part of a run.

    Attributes:
        end: when it ends, by `time.monotonic()`; inf: there is no limit.
    """

    def __init__(self, end: float = math.inf) -> None:
        self.end = end

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def part(self, fraction: float) -> TimeLimit:
        """Returns the limit of a part that may take this fraction of the time that is left now."""
        return TimeLimit(time.monotonic() + fraction * max(self.left, 0))


@dataclass
class Notes:
    """What readers of the tables have to know.

    Attributes:
        departures: what is other than in the paper, a sentence each.
        left_out: what of the paper is not measured, and why, a sentence each.
        published: rows (statement, the paper's number, ours), for numbers of the paper that we could verify.
    """

    departures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    published: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Stream:
    """Items that are measured in order, such as those of a task in one language.

    Attributes:
        name: the name of their values in `Measured`.
        count: how many items there are.
        measure: (start, stop) -> (stop - start, columns), the values of these items.
    """

    name: str
    count: int
    measure: Callable[[int, int], Tensor]


def measure_evenly(
    label: str,
    streams: Sequence[Stream],
    measured: Measured,
    limit: TimeLimit,
    *,
    at_least: int = 0,
    block: int = BLOCK,
    progress: bool,
) -> str | None:
    """Measures the first items of every stream, the same number of each, as many as the time allows.

    Values that an earlier run has measured are not measured again. Without a limit all items are measured.

    Args:
        label: what is measured, for the progress.
        streams: the streams. One that has fewer items than the others ends before them.
        measured: where the values are kept.
        limit: the time that the measurement may take.
        at_least: items of each stream that are measured in any case.
        block: the most items of a stream that are measured, and written, at a time.
        progress: show progress on stderr.

    Returns:
        None, or in a sentence why there are no values.
    """
    most = max(stream.count for stream in streams)
    done = min(measured.count(stream.name) for stream in streams if stream.count == most)
    pace: float | None = None  # seconds for one item of each stream
    with show_progress(label, "items of each", progress, most) as bar:
        bar.update(done)
        while done < most:
            size = block if math.isinf(limit.end) else 1 if pace is None else int(limit.left / max(pace, 1e-9))
            if done >= at_least and (size < 1 or limit.left <= 0):
                return None if done else "no time was left"
            stop = min(done + min(max(size, 1, at_least - done), block), most)
            started = time.monotonic()
            for number, stream in enumerate(streams, 1):
                start, end = measured.count(stream.name), min(stop, stream.count)
                if start < end:
                    measured.add(stream.name, stream.measure(start, end))
                    took = time.monotonic() - started
                    if done == 0 == at_least and took * len(streams) / number > limit.left + took:
                        return (
                            f"the first items would take about {took * len(streams) / number:,.0f} s, more than "
                            "--minutes leaves"
                        )
            pace = (time.monotonic() - started) / (stop - done)
            bar.update(stop - done)
            done = stop
    return None


def model_note(model: nn.Module, measured: str) -> str:
    """Returns a departure: the size of the model, and what the paper measures."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"model: {parameters / 1e6:,.0f} million parameters; the paper measures {measured}"


def span(counts: Collection[int]) -> str:
    """Returns "least to most" of the counts, or the one number that all of them are."""
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))


@dataclass(frozen=True)
class Setup:
    """What every measurement needs.

    Attributes:
        model: a Hugging Face decoder.
        tokenizer: the model's tokenizer.
        measured: where values are kept.
        batch_tokens: tokens in one forward, padding included.
        progress: show progress on stderr.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    measured: Measured
    batch_tokens: int
    progress: bool


class Tables:
    """Rows of tables while they are made: `table1`, `mwork`, `intervals` and `samples`."""

    def __init__(self) -> None:
        self.table1: list[tuple[object, ...]] = []
        self.mwork: list[dict[str, object]] = []
        self.intervals: list[tuple[object, ...]] = []
        self.samples: list[tuple[object, ...]] = []

    @staticmethod
    def frame(rows: Sequence[object], columns: Sequence[str] = ()) -> pandas.DataFrame:
        """Returns rows as a table. columns: their names; none if the rows have them."""
        import pandas

        return pandas.DataFrame(rows, columns=list(columns) or None)


def interval_ends(samples: Tensor, items: int) -> tuple[float, float]:
    """Returns the ends of the interval of (resamples,) values; NaN for one item, of which all samples are the same."""
    if items < 2:
        return math.nan, math.nan
    low, high = percentile_interval(samples)
    return low.item(), high.item()
