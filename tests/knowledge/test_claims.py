"""Reading a think block: typed claims, what could not be read, and the card's structure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazal.knowledge.claims import KINDS, Claim, clearance_range, number, read_step, read_steps, structure, trace_text

CARD = """<think>
Step 1: one
Step 2: two
</think>

## Clinical Assessment
**Primary Diagnosis**
Gout.

**Reasoning**
Crystals.

**Immediate Management**
1. Rest.
2. Colchicine.

**Follow-up**
In a week."""


@pytest.mark.parametrize(
    ("line", "claims"),
    [
        (
            "A. GRFoma: Chest pain: 2; absent Hematochezia: -1; total: 1",
            [
                ("level", ("grfoma", "chest pain"), 2),
                ("level", ("grfoma", "absent hematochezia"), -1),
                ("total", ("grfoma",), 1),
            ],
        ),
        ("B. GRFoma: total: 4", [("total", ("grfoma",), 4)]),
        ("B. total: 4", [("total", ("b",), 4)]),
        (
            "A. Jaundice: X disease: 0; Y disease: 3; gain: 69",
            [
                ("level", ("jaundice", "x disease"), 0),
                ("level", ("jaundice", "y disease"), 3),
                ("gain", ("jaundice",), 69),
            ],
        ),
        (
            "terms: Blood in urine = Hematuria; Lax joints = Joint hypermobility",
            [("term", ("blood in urine",), "hematuria"), ("term", ("lax joints",), "joint hypermobility")],
        ),
        ("C. range: 10 to 49; 54: outside", [("range", ("C",), (10, 49)), ("inside", ("C",), False)]),
        ("range: 50 and above", [("result", (), (50, None))]),
        ("Sepsis: 1; sum: 3.5", [("points", ("sepsis",), (False, 1)), ("sum", ("sepsis",), 3.5)]),
        ("Sepsis: absent: 0; sum: 4", [("points", ("sepsis",), (True, 0)), ("sum", ("sepsis",), 4)]),
        (
            "age 45: Age 41-60 years: 1; sum: 2",
            [("points", ("age 41-60 years",), (False, 1)), ("sum", ("age 41-60 years",), 2)],
        ),
        (
            "age 30: no age criterion: 0; sum: 2",
            [("points", ("no age criterion",), (False, 0)), ("sum", ("no age criterion",), 2)],
        ),
        ("criteria: 4", [("count", (), 4)]),
        (
            "A. GRFoma: Chest pain: very frequent (3); Diarrhea: Not reported; total: 3",
            [("level", ("grfoma", "chest pain"), 3), ("level", ("grfoma", "diarrhea"), 0), ("total", ("grfoma",), 3)],
        ),
        ("- Sepsis: 1; sum: 3.5", [("points", ("sepsis",), (False, 1)), ("sum", ("sepsis",), 3.5)]),
        ("Total score: 4 points; answer: D", [("result", (), 4)]),
        ("highest total: 5; answer: B", [("result", (), 5)]),
        ("highest gain: 43; answer: D", [("result", (), 43)]),
        ("total: −2; answer: D", [("result", (), -2)]),
        ("inside: 0 to 9; answer: C", [("result", (), (0, 9))]),
    ],
)
def test_each_line_of_the_trace_language_is_read(line: str, claims: list[tuple]) -> None:
    for written in (
        line,
        line.replace(": ", ":").replace("; ", " ;  "),
        line.upper().replace("B. TOTAL", "B. total"),
        line.replace(". ", ") ", 1),
        line + ".",
    ):
        step = read_step(written)
        assert step.claims == [Claim(*claim) for claim in claims] and not step.unread, written


def test_what_a_step_says_besides_its_claims() -> None:
    step = read_step("C. range: 10 to 49; 54: outside")
    assert (step.letter, step.name, step.quotes, step.answers) == ("C", None, [("clearance", 54)], [])
    assert read_step("age 45: Age 41-60 years: 1; sum: 2").quotes == [("age", 45)]
    assert read_step("highest total: 5; answer: B").answers == ["B"]
    step = read_step("**B. GRFoma**: Chest pain: 2")
    assert (step.letter, step.name, [claim.about for claim in step.claims]) == (
        "B",
        "GRFoma",
        [("grfoma", "chest pain")],
    )


@pytest.mark.parametrize(
    ("line", "unread", "claims"),
    [
        ("The patient is likely to have gout", 1, 0),
        ("A. GRFoma: Chest pain: often; Diarrhea: 2; total: 2", 1, 2),
        ("totalylanswer: A", 1, 0),
        ("A. GRFoma: Chest pain: frequent (3); Diarrhea: not frequent", 2, 0),
        (": 11; answer: D", 1, 0),
        ("range: some", 1, 0),
        ("A. range: 0 to 9; 5: maybe", 1, 1),
        ("terms: Blood in urine", 1, 0),
        ("answer: none", 1, 0),
        ("sum: 3", 1, 0),
        ("A. GRFoma: 3", 1, 0),
        ("total: many", 1, 0),
    ],
)
def test_what_cannot_be_read_is_kept(line: str, unread: int, claims: int) -> None:
    step = read_step(line)
    assert (len(step.unread), len(step.claims)) == (unread, claims)


def test_the_trace_is_found_with_and_without_tags() -> None:
    body = "Step 1: criteria: 4\nStep 2: total: 4; answer: C\n"
    answer = "\n## Clinical Assessment\n**Answer:** C"
    for text, opened in (
        (f"<think>\n{body}</think>\n{answer}", False),
        (f"{body}</think>{answer}", True),
        (f"{body}{answer}", False),
        (f"<think>{body}", False),
        (f"<think>{body}{answer}", False),
    ):
        steps = read_steps(text, opened)
        assert [claim.kind for step in steps for claim in step.claims] == ["count", "result"] and steps[-1].answers == [
            "C"
        ]
    assert [
        claim.kind for step in read_steps("Step 1: criteria: 4 Step 2: total: 4; answer: C") for claim in step.claims
    ] == ["count", "result"]
    assert trace_text("<think>a<|im_end|>b</think>") == "a" and read_steps("") == []


def test_numbers_and_ranges() -> None:
    assert [
        number(text) for text in ("3", " 1.5 ", "-2", "−2", "4 points", "+1", "three", "", "1e9", "3 or 4", "٣x")
    ] == [3, 1.5, -2, -2, 4, 1, None, None, None, None, None]
    assert [clearance_range(text) for text in ("0 to 9", "10-49", "50 and above", "≥ 50", "about 50", "")] == [
        (0, 9),
        (10, 49),
        (50, None),
        (50, None),
        None,
        None,
    ]


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("ABC:;=.-0123 \n")), max_size=200))
def test_any_text_is_read_and_nothing_is_dropped(text: str) -> None:
    for step in read_steps(f"<think>{text.replace('<', '')}</think>"):
        assert all(claim.kind in KINDS for claim in step.claims)
        letters = any(character.isalpha() for character in step.text)
        assert (
            not letters
            or step.claims
            or step.answers
            or step.unread
            or step.letter
            or step.text.strip(" :;.*").casefold() in ("terms", "term")
        ), step


@given(
    st.lists(
        st.sampled_from(
            [
                "terms:",
                "A. ",
                "GRFoma: ",
                "absent ",
                "Pain: ",
                "3",
                "; ",
                "total: ",
                "gain: ",
                "sum: ",
                "range: ",
                "0 to 9",
                "inside",
                "answer: ",
                "age 4: ",
                "= ",
                "Step 2: ",
                "\n",
            ]
        ),
        max_size=14,
    )
)
def test_any_mixture_of_pieces_is_read(pieces: list[str]) -> None:
    for step in read_steps("".join(pieces)):
        assert all(
            len(claim.about) == {"level": 2, "count": 0, "result": 0}.get(claim.kind, 1) for claim in step.claims
        )
        assert all(name for claim in step.claims for name in claim.about)


def test_the_cards_structure() -> None:
    assert structure(CARD) == {"think": True, "steps": True, "assessment": True, "answer": False, "sections": True}
    assert all(structure(f"{CARD}\n\n**Answer:** C").values())
    assert structure(CARD.removeprefix("<think>\n"), think_open=True)["think"]


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("</think>", "", {"think", "assessment"}),
        ("Step 2", "Step 3", {"steps"}),
        ("Step 1: one\n", "", {"steps"}),
        ("Step 2: two", "Step 2: ", {"steps"}),
        ("Step 1:", "First:", {"steps"}),
        ("## Clinical Assessment\n", "", {"assessment"}),
        ("## Clinical Assessment", "So\n## Clinical Assessment", {"assessment"}),
        ("**Follow-up**\nIn a week.", "", {"sections"}),
        ("Crystals.", "", {"sections"}),
        ("2. Col", "3. Col", {"sections"}),
        ("1. Rest.\n2. Colchicine.", "Rest.", {"sections"}),
        ("**Answer:** C", "", {"answer"}),
        ("**Answer:** C", "**Answer:** C\nDone.", {"answer"}),
        ("**Answer:** C", "**Answer:** C\n**Answer:** C", {"answer"}),
        ("**Answer:** C", "Answer: C", {"answer"}),
    ],
)
def test_each_fault_breaks_its_part_of_the_structure(old: str, new: str, lost: set[str]) -> None:
    whole = f"{CARD}\n\n**Answer:** C"
    assert old in whole
    assert {part for part, kept in structure(whole.replace(old, new)).items() if not kept} == lost


@pytest.mark.parametrize(
    "text, trace",
    [
        ("<think>a\n<think>\nb\n</think>c</think>d", "a\n<think>\nb\n"),  # to the first closing mark
        ("First <think>a</think>b", "a"),
        ("[THINK]a\nb[/THINK]c", "a\nb"),
        ("<thinking>a\n## Clinical Assessment\nb", "a\n"),
        ("a\n## Clinical Assessment\nb", "a\n"),
        ("<think>a<|im_end|>b</think>c", "a"),
    ],
)
def test_the_trace_in_any_marks(text, trace):
    assert trace_text(text) == trace
