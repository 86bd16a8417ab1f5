"""The teacher's prompts: four reasoning types × eight specialties, for an exam question, a case or a topic.

They require the model card's form. The key of a multiple-choice seed is never shown, because the acceptance rules
test agreement with it.
"""

from __future__ import annotations

from gazal.items.prompts import HEADING
from gazal.items.types import ReasoningType

# Reasoning type -> (what it is, by the model card; what its steps go through).
REASONING: dict[ReasoningType, tuple[str, str]] = {
    "diagnosis": (
        "diagnostic reasoning: systematic symptom analysis leading to a differential diagnosis",
        "the findings and what each one means; a differential of at least three conditions; "
        "what speaks for and against each, the absent findings included; "
        "what must not be missed; the leading diagnosis and what would confirm it",
    ),
    "treatment": (
        "treatment planning: evidence-based choice of therapy with patient-specific factors",
        "the problem to be treated and its severity; the options and the evidence for each; "
        "what in this patient changes the choice (age, pregnancy, renal and hepatic function, "
        "allergies, interactions); the choice with dose and route where these are standard; "
        "monitoring and when to change course",
    ),
    "uncertainty": (
        "decision-making under uncertainty: risk assessment and clinical judgment",
        "what is known and what is missing; how likely each explanation is, in words or rough figures; "
        "the harm of acting against the harm of waiting; "
        "the next test or step and how its result would change the decision; a safety net for being wrong",
    ),
    "prognosis": (
        "prognostic assessment: prediction of the outcome from clinical evidence",
        "the disease and its stage or severity; the factors that worsen and that improve the outlook; "
        "a validated score where one applies, with its inputs; "
        "the expected course over a stated time; what can be changed and how the outlook is to be discussed",
    ),
}

SPECIALTIES = {
    "internal medicine": "several conditions and medicines at once, and how they bear on each other",
    "emergency medicine": (
        "time, stability first (airway, breathing, circulation), and what must be excluded before discharge"
    ),
    "cardiology": "haemodynamics, the electrocardiogram, cardiac markers and imaging, and cardiovascular risk",
    "pulmonology": "gas exchange, lung function, chest imaging and ventilation",
    "infectious disease": (
        "exposure, likely organisms, cultures before treatment, the choice and length of antimicrobials, and resistance"
    ),
    "pharmacology": "mechanism, kinetics, dose, interactions, adverse effects and their reversal",
    "pathophysiology": "the chain from cause through mechanism to each finding",
    "clinical laboratory medicine": (
        "reference intervals, pre-analytical error, sensitivity and specificity, "
        "and what a result adds to the pre-test probability"
    ),
}

SYSTEM = (
    "You are an experienced clinician who writes teaching examples for a research data set. "
    "Reason from the facts given, invent no findings, say what is uncertain, and name the standard of care. "
    "Plain text in exactly the form asked for, and nothing before or after it."
)

_FORM = f"""<think>
Step 1: …
Step 2: …
(as many numbered steps as the reasoning needs, at least three; each begins a line as "Step N:", without bold type)
</think>

{HEADING}

**Primary Diagnosis**
(one or two sentences: the diagnosis, decision or outlook)

**Reasoning**
(one paragraph that sums up why)

**Immediate Management**
1. …
2. …

**Follow-up**
(what is checked, when, and when to come back earlier)"""

_ANSWER = "\n\n(then, as the very last line, the letter of the one best option)\n**Answer:** X"
_CASE = (
    "## Case\n(the patient's story in 80 to 180 words: age, sex, history, examination, results with units; "
    "it ends with the question and does not give the answer away)\n\n"
)


def teacher_messages(
    kind: ReasoningType, specialty: str, text: str, *, options: bool = False, patient: str | None = None
) -> list[dict[str, str]]:
    """Return the chat messages for one example.

    ``text`` is the seed's question (with its ``options``). With a ``patient`` it is a topic, for which the teacher
    writes the case as well.
    """
    what, steps = REASONING[kind]
    task = (
        f"Write a clinical case about the topic below ({patient}) and reason through it."
        if patient
        else "Reason through the exam question below and choose one option."
        if options
        else "Reason through the case or question below."
    )
    form = (_CASE if patient else "") + _FORM + (_ANSWER if options else "")
    return [
        {"role": "system", "content": SYSTEM},
        {
            "role": "user",
            "content": (
                f"{task}\n\nKind of reasoning: {what}.\nThe steps go through: {steps}.\n"
                f"Specialty: {specialty}. Mind {SPECIALTIES[specialty]}.\n\n"
                f"{'Topic' if patient else 'Question'}:\n{text}\n\n"
                f"Answer in this form, with these headings word for word:\n\n{form}"
            ),
        },
    ]
