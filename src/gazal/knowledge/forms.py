"""The wordings of knowledge-derived questions: three plain ones a type, fourteen rich ones.

The rich forms differ in what comes first, how findings are listed, how the rule is put, and how the question is asked.
Every form states the whole rule that decides the key. Names stand after colons or in lists, as HPO writes them.
No form holds option letters, or a line that begins like an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One wording, with slots in braces.

    ``absent`` and ``minus`` fill the slots of those names if something is said to be absent, else nothing does.
    ``age`` fills its slot if an age is stated. ``join`` stands between findings.
    """

    name: str
    text: str
    absent: str = ""
    minus: str = ""
    age: str = ""
    join: str = "; "

    def fill(self, **slots: object) -> str:
        return self.text.format(**slots)

    def findings(
        self, present: Sequence[str], absent: Sequence[str], rule: str = "", years: int | None = None, **slots: object
    ) -> str:
        """Return the question with its lists of present and absent findings, and the age in ``years`` if given."""
        return self.fill(
            present=self.join.join(present),
            absent=self.absent.format(names=self.join.join(absent)) if absent else "",
            minus=self.minus if absent else "",
            age="" if years is None else self.age.format(years=years),
            rule=rule,
            **slots,
        )


def _plain(kind: str, stem: str, *asks: str) -> tuple[Form, ...]:
    return tuple(Form(f"{kind}-plain-{n}", stem.replace("ASK", ask)) for n, ask in enumerate(asks, 1))


PLAIN = {
    "diagnosis": _plain(
        "diagnosis",
        "Findings: {present}.\nASK {rule}",
        "Which diagnosis has the highest total level?",
        "Which disease explains these findings best?",
        "What is the most likely diagnosis?",
    ),
    "uncertainty": _plain(
        "uncertainty",
        "Two diagnoses are equally likely: {first}; {second}.\nASK {rule}",
        "Which finding separates them best?",
        "Which finding should be looked for next?",
        "Which finding has the highest information gain?",
    ),
    "treatment": _plain(
        "treatment",
        "Patient: {age}-year-old {sex}, {metric}: {value} {unit}.\nDrug: {drug}.\nASK",
        "Which dose fits?",
        "Which dose is appropriate?",
        "Which regimen applies?",
    ),
    "prognosis": _plain(
        "prognosis",
        "{score}. Present: {present}. Absent: all others.\nASK",
        "Which total and risk follow?",
        "What is the score?",
        "Which estimate is right?",
    ),
}


_RATES = "very frequent 90 %, frequent 55 %, occasional 17 %, not reported 2 %"


def _rich(kind: str, *forms: str | dict[str, str]) -> tuple[Form, ...]:
    """Number the forms; a form without clauses is given as its text, with RATES for the rates."""
    fields = ({"text": form.replace("RATES", _RATES)} if isinstance(form, str) else form for form in forms)
    return tuple(Form(f"{kind}-rich-{n}", **form) for n, form in enumerate(fields, 1))


DIAGNOSIS = _rich(
    "diagnosis",
    {
        "text": "Present: {present}.{absent}\n"
        "Which of these diseases has the highest total? A very frequent finding counts 3, a frequent "
        "one 2, an occasional one 1, one that is not reported 0{minus}.",
        "absent": "\nAbsent: {names}.",
        "minus": "; the level of an absent finding is subtracted",
    },
    {
        "text": "Choose the disease that fits best. For each disease add 3 for every very frequent finding, 2 "
        "for every frequent one, 1 for every occasional one and nothing for one not reported{minus}; "
        "the largest sum wins.\nFindings: {present}.{absent}",
        "absent": "\nLooked for and not found: {names}.",
        "minus": ", and take the same amounts away for findings that were not found",
    },
    {
        "text": "The following was noted:\n- {present}{absent}\n"
        "How often each disease shows a finding sets its level: very frequent = 3; frequent = 2; "
        "occasional = 1; not reported = 0{minus}. Which diagnosis reaches the highest sum of levels?",
        "absent": "\nNot there:\n- {names}",
        "minus": "; what is not there counts with a minus sign",
        "join": "\n- ",
    },
    {
        "text": "Which diagnosis do these findings support most: {present}?{absent} Weigh each by its "
        "frequency in the disease (3 very frequent, 2 frequent, 1 occasional, 0 not reported) and "
        "sum{minus}.",
        "absent": " Ruled out: {names}.",
        "minus": "; findings that are ruled out weigh against a disease by their level",
        "join": ", ",
    },
    {
        "text": "Task: rank four diseases by summed frequency level and name the first.\n"
        "Scale: 0 not reported, 1 occasional, 2 frequent, 3 very frequent.{minus}\n"
        "Observed: {present}.{absent}",
        "absent": "\nNot observed: {names}.",
        "minus": " Levels of findings not observed are deducted.",
    },
    {
        "text": "A patient is known to have: {present}.{absent} By HPO's frequency classes (very frequent 3 "
        "points, frequent 2, occasional 1, not reported 0), under which of the listed diseases do the "
        "points add up to most{minus}?",
        "absent": " The patient does not have: {names}.",
        "minus": ", once the points of what the patient does not have are taken off",
    },
    {
        "text": "Findings on record\n  yes: {present}{absent}\nPoints per finding and disease\n"
        "  very frequent 3 / frequent 2 / occasional 1 / not reported 0{minus}\n"
        "Which disease collects most points?",
        "absent": "\n  no: {names}",
        "minus": ' (negative for a "no")',
    },
    {
        "text": "Suppose four diseases are being compared. Seen: {present}.{absent}\n"
        "The one with the best balance is the answer, where each finding seen gives 3 points if it is "
        "very frequent in the disease, 2 if frequent, 1 if occasional and 0 if not reported{minus}. "
        "Which one is it?",
        "absent": " Not seen: {names}.",
        "minus": ", and each finding not seen costs as many points as it would have given",
    },
    {
        "text": "Differential diagnosis by frequency. Score = sum of levels{minus}. Levels: "
        "3 (very frequent), 2 (frequent), 1 (occasional), 0 (not reported).\n+ {present}{absent}\n"
        "Which candidate scores highest?",
        "absent": "\n- {names}",
        "minus": " of findings marked +, minus the levels of those marked -",
        "join": " | ",
    },
    {
        "text": "Which of the diseases would you put first, given {present}?{absent}\n"
        "Count by frequency in the disease: very frequent three, frequent two, occasional one, not "
        "reported none{minus}.",
        "absent": " Of note, these are missing: {names}.",
        "minus": "; subtract the count of whatever is missing",
        "join": " + ",
    },
    {
        "text": "Look up how common each of these is in each disease, turn it into a level (not reported 0, "
        "occasional 1, frequent 2, very frequent 3) and compare the totals{minus}. "
        "Which disease comes out on top?\nReported by the patient: {present}.{absent}",
        "absent": "\nDenied by the patient: {names}.",
        "minus": ", a denied finding entering with its level below zero",
    },
    {
        "text": "Positive: {present}.{absent}\n"
        "Summing 3/2/1/0 for very frequent/frequent/occasional/not reported{minus}, the leading "
        "diagnosis is which one?",
        "absent": "\nNegative: {names}.",
        "minus": " over the positive findings and deducting the same for the negative ones",
    },
    {
        "text": "Four diseases share some of their findings. Decide between them by total level, a finding's "
        "level being 3 when the disease shows it very frequently, 2 frequently, 1 occasionally, 0 "
        "when it is not reported there{minus}.\nTo be explained: {present}.{absent}\nYour choice?",
        "absent": "\nKnown to be absent: {names}.",
        "minus": "; the level of an absent finding is taken off the total",
    },
    {
        "text": "Best match wanted.\n1) Present findings: {present}{absent}\n"
        "2) Level of a finding in a disease: very frequent 3, frequent 2, occasional 1, not reported 0\n"
        "3) Total: add the levels{minus}\nWhich disease has the highest total?",
        "absent": "\n   Absent findings: {names}",
        "minus": " of present findings, subtract those of absent findings",
    },
)

UNCERTAINTY = _rich(
    "uncertainty",
    "{first} and {second} are equally likely. Which finding has the highest expected information gain between them? "
    "Take these rates: RATES.",
    "It is either {first} or {second}, with even odds. Whether one finding is present can be checked. "
    "Which check would, on average, remove most uncertainty?\nRates to use: RATES.",
    "Candidates: {first}; {second} (50 % each).\nFrequencies: RATES.\n"
    "Which finding tells them apart best, by mutual information?",
    "Which of the findings below would you look for next to decide between {first} and {second}? "
    "Both are equally probable; a finding occurs in 90 % where it is very frequent, in 55 % where frequent, in "
    "17 % where occasional, in 2 % where not reported. Maximise the expected gain in bits.",
    "Undecided: {first} versus {second}, prior one half each.\n"
    "Presence or absence of one finding will be learnt. Pick the finding that is expected to lower the entropy "
    "most (rates: RATES).",
    "Given even odds for these two diseases:\n- {first}\n- {second}\n"
    "and these rates by HPO frequency class: RATES, which finding carries most information about which of the "
    "two it is?",
    "Task: choose the most informative finding.\nHypothesis 1: {first}. Hypothesis 2: {second}. Equal priors.\n"
    "Finding rates: 0.90 if very frequent, 0.55 if frequent, 0.17 if occasional, 0.02 if not reported.",
    "Suppose only one more finding can be checked before choosing between {first} and {second}, so far a coin toss. "
    "By expected information gain, which should it be? (Rates: RATES.)",
    "A patient has one of two diseases, each with probability 0.5: {first}; {second}. "
    'The answer to "is it present?" is most telling for which finding? Use RATES.',
    "How would you best split {first} from {second}? Name the finding whose status shrinks the doubt most on "
    "average, when very frequent means 90 %, frequent 55 %, occasional 17 % and not reported 2 %, and neither "
    "disease is favoured beforehand.",
    "Diseases in question: {first} / {second}\nBelief now: 50 / 50\n"
    "Level to rate: 3 = 90 %, 2 = 55 %, 1 = 17 %, 0 = 2 % (very frequent, frequent, occasional, not reported)\n"
    "Which finding has the largest information gain?",
    "Not every finding helps equally. Between {first} and {second}, which are equally likely at the start, "
    "which one is worth most in expected bits? Assume rates of 90 % (very frequent), 55 % (frequent), 17 % "
    "(occasional), 2 % (not reported).",
    "The choice has narrowed to two, and nothing favours either: {first}, {second}. "
    "Order the findings by how much knowing them would help on average, with RATES. Which comes first?",
    "Best next question? Two equally likely explanations remain, {first} and {second}. "
    "Compare the findings by the entropy they are expected to remove; count RATES.",
)

TREATMENT = _rich(
    "treatment",
    "A {age}-year-old {sex} with {metric} {value} {unit} is prescribed {drug}. "
    "Which dosing applies at this renal function?",
    "Drug: {drug}\nRenal function: {metric} {value} {unit}\nPatient: {sex}, {age} years\n"
    "Which dose tier is the right one?",
    "How should {drug} be dosed in a {sex} aged {age} whose {metric} is {value} {unit}?",
    "Choose the renal dose of {drug}.\n{metric}: {value} {unit}. Age: {age}. Sex: {sex}.",
    "{drug} is indicated. The patient, a {sex} of {age} years, has {metric} = {value} {unit}. "
    "Which line of the renal dosing table is the one to follow?",
    "Dose check. {metric} today: {value} {unit} ({sex}, {age} years old). Ordered: {drug}. What should the order say?",
    "Given {metric} of {value} {unit}, which of the following is the dose of {drug} for this {age}-year-old {sex}?",
    "Laboratory: {metric} {value} {unit}.\n"
    "The {sex}, aged {age}, is to start {drug}. Select the regimen for this range of kidney function.",
    "Kidney function decides the dose of {drug}. At {value} {unit} ({metric}), what is recommended? "
    "The patient is a {age}-year-old {sex}.",
    "Which recommendation for {drug} covers a {metric} of {value} {unit}?\n(Patient: {age} years, {sex}.)",
    "Medication review: {sex}, {age}.\n- {metric}: {value} {unit}\n- medicine: {drug}\n"
    "Which renal adjustment, if any, is due?",
    "Suppose a {age}-year-old {sex} needs {drug} and the {metric} comes back as {value} {unit}. "
    "Which option matches the label's renal tiers as tabulated?",
    "Match the dose to the kidney. Medicine: {drug}. {metric}: {value} {unit}. Person: {age}-year-old {sex}.",
    "A pharmacist asks which dose of {drug} goes with {metric} {value} {unit}; "
    "the patient is {age} years old and a {sex}. Your answer?",
)

# An age criterion is never listed beside a stated age: it follows from that age, and every age clause says so.
PROGNOSIS = _rich(
    "prognosis",
    {
        "text": "Work out the {score}.\nPresent: {present}.{absent}{age}\n"
        "Everything that is not mentioned is absent. Which total and risk follow?",
        "absent": "\nAbsent: {names}.",
        "age": "\nAge: {years} years (points for age, if any, follow from it).",
    },
    {
        "text": "What does the {score} come to for a patient with these criteria: "
        "{present}?{absent} All others are absent{age}.",
        "absent": " Not present: {names}.",
        "age": ", except that the patient is {years} years old and any age criterion goes by that",
    },
    {
        "text": "{score}\n{age}+ {present}{absent}\n(no other criterion is met)\nWhich estimate is right?",
        "absent": "\n- {names}",
        "age": "age {years}, to be scored as such\n",
        "join": " | ",
    },
    {
        "text": "These criteria of the {score} are met, and no others{age}:\n- {present}{absent}\n"
        "Name the total and the risk that goes with it.",
        "absent": "\nExpressly not met:\n- {names}",
        "age": " (age apart: {years} years, which counts if the score has a criterion for it)",
        "join": "\n- ",
    },
    {
        "text": "Add up the points of the {score}. Positive: {present}.{absent}{age} Not mentioned means absent. "
        "Where does the patient land?",
        "absent": " Negative: {names}.",
        "age": " Age in years, for any age criterion: {years}.",
    },
    {
        "text": "Which option gives the correct {score} if, of its criteria, only the following hold{age}: "
        "{present}?{absent}",
        "absent": " (So these do not hold: {names}.)",
        "age": ", besides what an age of {years} years implies",
        "join": ", ",
    },
    {
        "text": "Risk by score.\nScore: {score}\n{age}Yes: {present}{absent}\nAll remaining criteria: no\nResult?",
        "absent": "\nNo: {names}",
        "age": "Age criteria: apply to a patient of {years} years\n",
    },
    {
        "text": "A chart review for the {score} found: {present}.{age}{absent} Criteria that the review does "
        "not touch on were absent. How many points, and what risk?",
        "absent": " It states that these were absent: {names}.",
        "age": " It gives the age as {years} years, which settles any age criterion.",
    },
    {
        "text": "Suppose someone asks for the {score} of a patient{age}. The criteria that hold are: "
        "{present}.{absent} None of the others hold. What do you answer?",
        "absent": " Asked about and denied: {names}.",
        "age": " aged {years} (take any age criterion from that)",
    },
    {
        "text": "Criteria present: {present}. Criteria absent: {absent}every one not listed.{age}\n"
        "Instrument: {score}. Give the total with its category.",
        "absent": "{names}; ",
        "age": " Criteria of age are not listed; the age is {years} years.",
    },
    {
        "text": "Task: total and category by the {score}.\nGiven: {present}.{absent}{age}\n"
        "Whatever is not given does not apply.",
        "absent": "\nGiven as absent: {names}.",
        "age": "\nGiven age: {years} years, to be held against the score's age bounds.",
    },
    {
        "text": "The {score} is being filled in{age}. Boxes ticked: {present}.{absent} The rest stay empty. "
        "Which sum is read off?",
        "absent": " Boxes crossed out: {names}.",
        "age": " for a patient of {years} years, whose age box, if there is one, is still to be judged",
    },
    {
        "text": "By the {score}, how is a patient rated who has the following and none of its other criteria{age}? "
        "{present}.{absent}",
        "absent": " In particular, not: {names}.",
        "age": ", unless being {years} years old meets one",
    },
    {
        "text": "Score the record below with the {score}; a criterion that the record neither names nor "
        "implies is absent.\nRecord: {age}{present}{absent}.\nWhich line is its result?",
        "absent": "; absent: {names}",
        "age": "{years} years old; ",
    },
)
RICH = {"diagnosis": DIAGNOSIS, "uncertainty": UNCERTAINTY, "treatment": TREATMENT, "prognosis": PROGNOSIS}
