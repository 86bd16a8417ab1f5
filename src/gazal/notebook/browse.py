"""What ``notebooks/explore_predictions.ipynb`` shows: predictions one item at a time, models side by side.

Nothing is written and no model is loaded. Every text of an item, a model or a file's name is escaped before it becomes
HTML. It is also marked so that MathJax leaves it alone: JupyterLab would otherwise set "costs $5 to $10" as a formula.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML

from gazal import DISCLAIMER
from gazal.answers.extract import Reason
from gazal.answers.markup import part
from gazal.common.errors import GazalError
from gazal.common.openai_message import FILTERED
from gazal.common.paths import ROOT
from gazal.engines.reply import REFUSED
from gazal.items.schema import Item
from gazal.notebook.start import check_parameters
from gazal.predictions.folder import read_answers
from gazal.runs import relative

OUTCOMES = ("all", "right", "wrong", "gained", "lost")
"""``gained``: right, and the first model was wrong; ``lost``: wrong, and the first model was right."""
LONGEST = 20_000  # characters of a completion that are shown
COLUMNS = [
    "benchmark",
    "model",
    "item_id",
    "sample",
    "correct",
    "letter",
    "key",
    "reason",
    "group",
    "n_tokens",
    "finish_reason",
    "completion",
    "open",
]
ENDED = {
    "length": ", cut at the token limit",
    FILTERED: ", cut by the server's filter",
    REFUSED: ", refused by the server",
}
PARAMETERS = ("EVAL", "BENCHMARK", "MODEL", "OUTCOME", "REASON", "GROUP", "SHOW")
_RAW = "class='tex2jax_ignore mathjax_ignore'"  # for MathJax 2; for 3 and later
_TEXT = "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.3em 0"


@dataclass
class Samples:
    """Predictions of one folder, and their items by benchmark and id.

    ``table`` has a row per completion (:data:`COLUMNS`), with the models in the order of stages. If nothing could be
    read, both are empty, and ``note`` says why.
    """

    table: pd.DataFrame
    items: dict[tuple[str, str], Item]
    note: str = ""

    @property
    def models(self) -> list[str]:
        return list(self.table["model"].unique())


def open_samples(namespace: dict[str, Any]) -> Samples:
    """Read the predictions that the notebook's parameter EVAL names, and print one line about them.

    A relative path starts at the repository. Raises GazalError for parameters that the notebook does not know.
    """
    check_parameters(namespace, PARAMETERS)
    samples = read_samples(relative(ROOT / Path(namespace["EVAL"]).expanduser()))
    print(samples.note or f"{len(samples.table)} completions of {', '.join(samples.models)}")
    return samples


def read_samples(eval_dir: str | Path) -> Samples:
    """Read all predictions of a run or an eval folder; if that fails, ``note`` says why, in one line."""
    try:
        _, answers, items = read_answers(eval_dir)
    except GazalError as error:
        return Samples(pd.DataFrame(columns=COLUMNS), {}, str(error))
    frames = [frame.assign(model=model, benchmark=name)[COLUMNS] for (model, name), frame in answers.items()]
    return Samples(
        pd.concat(frames, ignore_index=True), {(name, item.id): item for name, found in items.items() for item in found}
    )


def overview(samples: Samples) -> pd.DataFrame:
    """Count by benchmark and model: completions, share right, and completions with each reason code.

    ``ok`` means that an answer was read.
    """
    table = samples.table
    if not len(table):
        return pd.DataFrame(columns=["completions", "right"])
    order = {name: list(table[name].unique()) for name in ("benchmark", "model", "reason")}
    order["reason"].sort(key=lambda reason: reason != "ok")
    table = table.assign(**{name: pd.Categorical(table[name], found) for name, found in order.items()})
    groups = table.groupby(["benchmark", "model"], observed=True)
    return groups.agg(completions=("correct", "size"), right=("correct", "mean")).join(
        groups["reason"].value_counts(sort=False).unstack(fill_value=0)
    )


def choose(
    samples: Samples, benchmark: str = "", model: str = "", outcome: str = "all", reason: str = "", group: str = ""
) -> list[tuple[str, str]]:
    """Return benchmark and id of the items that fit, in the files' order. An empty value fits everything.

    One and the same completion of ``model`` (empty: of the last) must have the reason code and the outcome
    (:data:`OUTCOMES`). Gained and lost compare the item's shares of right completions. ``group`` is its reasoning type
    or subject. Raises GazalError for a value that does not occur.
    """
    table = samples.table
    for column, value in {"benchmark": benchmark, "model": model, "reason": reason, "group": group}.items():
        if value and value not in set(table[column]):
            present = ", ".join(sorted(map(str, table[column].dropna().unique()))) or "nothing"
            raise GazalError(f"{column} {value!r}: none such here (there is: {present})")
    if outcome not in OUTCOMES:
        raise GazalError(f"outcome {outcome!r}: expected one of {', '.join(OUTCOMES)}")
    if not len(table):
        return []
    model = model or samples.models[-1]
    kept = table[table["model"] == model]
    for column, value in {"benchmark": benchmark, "reason": reason, "group": group}.items():
        kept = kept[kept[column] == value] if value else kept
    keys = ["benchmark", "item_id"]
    if outcome in ("right", "wrong"):
        kept = kept[kept["correct"].astype(bool) == (outcome == "right")]
    elif outcome != "all":
        before, after = (
            table[table["model"] == name].groupby(keys)["correct"].mean().astype(float)
            for name in (samples.models[0], model)
        )
        change = after.sub(before).dropna()
        kept = kept[
            pd.MultiIndex.from_frame(kept[keys]).isin(change.index[change > 0 if outcome == "gained" else change < 0])
        ]
    return list(kept[keys].drop_duplicates().itertuples(index=False, name=None))


def parts(completion: str, think_open: bool = False) -> tuple[str | None, str | None]:
    """Return the think block and the text after it.

    The block is None if there is none; the text after it is None if the block is left open.
    """
    parted = part(completion, think_open)
    rest = completion[parted.end :]
    if parted.thought is None:
        return None, completion
    if parted.answer is None:
        return (parted.thought + rest).strip("\n"), None
    return parted.thought.strip("\n"), (parted.answer + rest).strip("\n")


def item_html(samples: Samples, benchmark: str, item_id: str, models: Sequence[str] = ()) -> str:
    """Return one item and the completions of ``models`` (empty: all), side by side; think blocks are folded."""
    rows = samples.table[(samples.table["benchmark"] == benchmark) & (samples.table["item_id"] == item_id)]
    rows = rows[rows["model"].isin(models or samples.models)]
    columns = [_column(name, rows[rows["model"] == name]) for name in models or samples.models]
    return (
        f"<div {_RAW} style='line-height: 1.5'>"
        f"<p><b>{html.escape(benchmark)}</b> · <code>{html.escape(item_id)}</code></p>"
        f"{_question(samples.items.get((benchmark, item_id)), rows)}"
        "<div style='display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start; margin-top: 0.8em'>"
        f"{''.join(columns)}</div>"
        f"<p><i>{html.escape(DISCLAIMER)}</i></p></div>"
    )


def page(samples: Samples, chosen: Iterable[tuple[str, str]], show: int = 3) -> HTML:
    """Return the first ``show`` of the chosen items, one below the other; if there are none, one line says so."""
    chosen = list(chosen)
    if not chosen:
        return HTML(f"<p {_RAW}><b>{html.escape(samples.note or 'No item fits.')}</b></p>")
    return HTML(
        f"<p {_RAW}>{min(show, len(chosen))} of {len(chosen)} items that fit</p>"
        + "<hr>".join(item_html(samples, *one) for one in chosen[:show])
    )


def _question(item: Item | None, rows: pd.DataFrame) -> str:
    if item is None:
        return "<p>(its items do not lie beside the predictions)</p>"
    context = "\n".join(item.context or [])
    folded = (
        f"<details><summary>context</summary><div style='{_TEXT}'>{html.escape(context)}</div></details>"
        if context
        else ""
    )
    options = []
    for letter, text in item.options.items():
        key = letter == item.answer_idx
        chosen = ", ".join(rows.loc[rows["letter"] == letter, "model"].unique())
        option = f"<b>{letter}. {html.escape(text)}</b> ✓ (the key)" if key else f"{letter}. {html.escape(text)}"
        option += f" <i>← {html.escape(chosen)}</i>" if chosen else ""
        options.append(f"<div style='{_TEXT}; padding-left: 2em; text-indent: -1em'>{option}</div>")
    return f"{folded}<div style='{_TEXT}'>{html.escape(item.question)}</div>{''.join(options)}"


def _column(model: str, rows: pd.DataFrame) -> str:
    cells = "".join(_completion(row) for row in rows.to_dict("records")) or "<p>not asked</p>"
    return (
        "<div style='flex: 1 1 20em; min-width: 16em; border-top: 2px solid; text-align: left'>"
        f"<p><b>{html.escape(model)}</b></p>{cells}</div>"
    )


def _completion(row: dict[str, Any]) -> str:
    thought, answer = parts(row["completion"], bool(row["open"]))
    folded = (
        ""
        if thought is None
        else f"<details><summary>think block, {len(thought.split())} words</summary>{_shown(thought)}</details>"
    )
    region = (
        "<p>(nothing after the think block: it is still open)</p>"
        if answer is None
        else _shown(answer)
        if answer.strip()
        else "<p>(empty)</p>"
    )
    letter = row["letter"] if isinstance(row["letter"], str) else "none"
    cut = ENDED.get(row["finish_reason"], "")
    verdict = _coloured("success", "✓ right") if row["correct"] else _coloured("error", "✗ wrong")
    line = f"{verdict} · answer {html.escape(letter)} · {_reason(row['reason'])} · {int(row['n_tokens'])} tokens{cut}"
    return f"<p>{line}</p>{folded}{region}"


def _coloured(kind: str, text: str) -> str:
    return f"<b style='color: var(--jp-{kind}-color1)'>{text}</b>"


def _reason(code: Any) -> str:
    meaning = {reason.value: reason.__doc__ or "" for reason in Reason}.get(str(code), "")
    return f"<code title='{html.escape(meaning)}'>{html.escape(str(code))}</code>"


def _shown(text: str) -> str:
    rest = f"<p>(and {len(text) - LONGEST} more characters)</p>" if len(text) > LONGEST else ""
    return f"<div style='{_TEXT}'>{html.escape(text[:LONGEST])}</div>{rest}"


class Browser:
    """Widgets that filter, and ``result``, the item at place ``at`` of those that fit; show ``box``."""

    def __init__(self, samples: Samples) -> None:
        def dropdown(name: str, options: Iterable[Any]) -> widgets.Dropdown:
            return widgets.Dropdown(
                options=list(options),
                description=name,
                layout=widgets.Layout(width="auto"),
                style={"description_width": "initial"},
            )

        def filtered(name: str, values: Iterable[Any]) -> widgets.Dropdown:
            return dropdown(name, [("any", ""), *((str(value), value) for value in values)])

        self.samples, table = samples, samples.table
        first = samples.models[0] if samples.models else ""
        against = {"gained": f"gained ({first} wrong)", "lost": f"lost ({first} right)"}
        self.benchmark = filtered("benchmark", table["benchmark"].unique())
        self.model = dropdown("model", samples.models[::-1])
        self.outcome = dropdown("outcome", [(against.get(outcome, outcome), outcome) for outcome in OUTCOMES])
        self.reason = filtered("reason", sorted(table["reason"].dropna().unique()))
        self.group = filtered("type", sorted(table["group"].dropna().unique()))
        self.at = widgets.BoundedIntText(1, min=1, max=1, layout=widgets.Layout(width="6em"))
        self.back, self.forward = (
            widgets.Button(description=name, layout=widgets.Layout(width="auto")) for name in ("← previous", "next →")
        )
        self.count, self.result = widgets.Label(), widgets.HTML()
        filters = (self.benchmark, self.model, self.outcome, self.reason, self.group)
        rows = ((*filters,), (self.back, self.at, self.count, self.forward))
        self.box = widgets.VBox(
            [*(widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")) for row in rows), self.result]
        )
        for widget in filters:
            widget.observe(self._refilter, "value")
        self.at.observe(self._show, "value")
        for button, step in ((self.back, -1), (self.forward, 1)):
            button.on_click(lambda _, step=step: setattr(self.at, "value", self.at.value + step))
        self._refilter()

    def _refilter(self, _: Any = None) -> None:
        self.chosen = choose(
            self.samples,
            self.benchmark.value,
            self.model.value or "",
            self.outcome.value,
            self.reason.value,
            self.group.value,
        )
        self.count.value = f"of {len(self.chosen)} that fit"
        self.at.max, self.at.value = max(len(self.chosen), 1), 1
        self._show()

    def _show(self, _: Any = None) -> None:
        self.back.disabled, self.forward.disabled = self.at.value <= 1, self.at.value >= len(self.chosen)
        self.result.value = (
            item_html(self.samples, *self.chosen[self.at.value - 1]) if self.chosen else page(self.samples, []).data
        )
