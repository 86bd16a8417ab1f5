"""An engine without a model, for the tests of asking."""

from __future__ import annotations

from gazal.engines.reply import Reply


class Scripted:
    """Answers item n's sample s with its key when s is 0, with nothing readable otherwise; batches of three."""

    def __init__(self, identity: str = "one", stop_after: int = 10**9, think: bool | None = None) -> None:
        self.name, self.identity, self.stop_after, self.think, self.asked = "scripted", identity, stop_after, think, []

    def opens_think(self, messages):
        return self.think

    def complete(self, prompts, settings, seed, done):
        batches = [range(at, min(at + 3, len(prompts))) for at in range(0, len(prompts), 3)]
        for count, batch in enumerate(b for b in reversed(batches) if not set(b) <= set(done)):
            if count == self.stop_after:
                raise KeyboardInterrupt
            self.asked += batch
            yield [self.reply(i, settings.samples, prompts[i]) for i in batch]

    def reply(self, index, samples, messages):
        key = "ABCD"[int(messages[-1]["content"].split()[1].rstrip("?")) % 4]
        text = "I do not know." if index % samples else f"<think>\nStep 1: x\n</think>\n\n**Answer:** {key}"
        return Reply(index, text, 5 + index, "length" if index % samples else "stop")
