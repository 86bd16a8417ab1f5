"""The lines that a run of predictions prints while it works; each completion's letter is read once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from gazal.answers.extract import Extraction, Reason
from gazal.engines.reply import Reply
from gazal.items.schema import LETTERS, Item
from gazal.predictions.file import not_asked, refused
from gazal.predictions.permute import origin
from gazal.scoring.stats import interval

REPORT_SECONDS = 20.0
REASONS = list(Reason)


def duration(seconds: float) -> str:
    """Return seconds as ``45 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class Readings:
    """Letter and reason of each completion, in two bytes; ``read(text, item)`` is called once for each."""

    def __init__(self, items: Sequence[Item], samples: int, read: Callable[[str, Item], Extraction]) -> None:
        self.items, self.samples, self._read = items, samples, read
        self.letters, self.reasons = (np.zeros(len(items) * samples, np.uint8) for _ in range(2))
        places: dict[str, int] = {}
        # the orders of one item are one unit
        self._place = [places.setdefault(origin(item), len(places)) for item in items]
        self.right, self.asked = (np.zeros(len(places), np.int64) for _ in range(2))
        self.not_asked = 0  # prompts longer than the model's context: an empty reply at once
        self.refused = 0  # prompts that a server did not take

    def add(self, batch: list[Reply]) -> None:
        """Read a batch of replies."""
        for reply in batch:
            item, place = self.items[reply.index // self.samples], self._place[reply.index // self.samples]
            letter, reason = self._read(reply.text, item)
            self.letters[reply.index] = LETTERS.index(letter) + 1 if letter else 0
            self.reasons[reply.index] = REASONS.index(reason)
            self.right[place] += letter == item.answer_idx
            self.asked[place] += 1
            self.not_asked += not_asked(reply.finish_reason, reply.text, reply.n_tokens)
            self.refused += refused(reply.finish_reason)

    def reading(self, index: int) -> Extraction:
        """Return what was found in one completion."""
        letter = self.letters[index]
        return Extraction(LETTERS[letter - 1] if letter else None, REASONS[self.reasons[index]])

    def accuracy(self) -> tuple[float, float, float]:
        """Return the mean accuracy of the items that have answers so far, and its 95 % Wilson interval.

        The interval is :func:`gazal.scoring.stats.interval`.
        """
        known = self.asked > 0
        means = self.right[known] / self.asked[known]
        return float(means.mean()), *interval(means, int(self.asked.max()))


class Progress:
    """A line every 20 seconds and one at the end: answers, rate, time left, accuracy and its interval.

    Rate and time left count this process's replies; the accuracy counts those that an earlier one saved too. Engines
    run the longest prompts first, so none of them forecasts its value at the end.
    """

    def __init__(self, label: str, readings: Readings, say: Callable[[str], None]) -> None:
        self.label, self.readings, self.say = label, readings, say
        self.total, self.before = len(readings.letters), int(readings.asked.sum())
        self.unit = "items" if readings.samples == 1 else "completions"
        self.began = self.said = time.monotonic()
        if self.before:
            say(f"{label}: goes on at {self.before}/{self.total}")

    def tell(self) -> None:
        """Say how far the run is, if a line is due."""
        now, done = time.monotonic(), int(self.readings.asked.sum())
        if done < self.total and now - self.said <= REPORT_SECONDS:
            return
        self.said, taken = now, now - self.began
        rate = (done - self.before) / max(taken, 1e-9)
        so_far, spent = "", f" in {duration(taken)}"
        if done < self.total:
            so_far, spent = " so far", f", about {duration((self.total - done) / rate)} left"
        known = f" ({self.before} of them from before)" if self.before else ""
        mean, low, high = self.readings.accuracy()
        self.say(
            f"{self.label}: {done}/{self.total}{known}, {rate:.1f} {self.unit}/s{spent}, "
            f"accuracy{so_far} {mean:.3f} (95 % interval {low:.3f}–{high:.3f})"
        )
