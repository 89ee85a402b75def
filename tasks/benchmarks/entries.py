"""The thirteen benchmarks of OctoThinker (arXiv 2506.20512): what their rows look like, and what stands before a question.

    BENCHMARKS["gsm8k"]         a Benchmark: one entry says everything about it

The files are those of the hub, and those that evaluation harnesses of mathematics pass on (Qwen2.5-Math, DeepSeek-Math): a row
may have the fields of either. To add a benchmark, add an entry.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


def one_after_the_other(*texts: str) -> str:
    """The texts, each on lines of its own."""
    return "\n".join(filter(None, texts))


def nothing(row: dict) -> bool:
    return False


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a benchmark are read, asked and checked.

    Fields of a row are named in small letters and with _ for a space, whatever the file does. "a|b": one of these names.

    title      its name in tables
    hub        its data set on the hub: owner/name, with @REVISION and :CONFIGURATION where it needs them
    question   the fields of the question, in order; only the last one must be there
    answer     the field of the gold answer; where a row has none, it is the last \\boxed{} of the solution
    choices    the field of the choices, a list or one text; the answer is then a letter, or the number of a choice from 0 on
    solution   the field of the worked solution
    margin     the field that says how far a number may be from the gold one
    also       more fields that a row may have; they say nothing that the question or the answer needs
    split      of the data set
    folders    other names that its folder of files may have
    shots      which worked examples come before a question (shots.py); "": none
    gold       makes the gold answer of what the field says
    join       makes the question of its fields, each a text or ""
    left_out   whether a row is no question of the benchmark
    tolerance  how far a number may be from the gold one, as a share of it
    """
    title: str
    hub: str
    question: str
    answer: str
    choices: str = ""
    solution: str = ""
    margin: str = ""
    also: str = ""
    split: str = "test"
    folders: tuple[str, ...] = ()
    shots: str = ""
    gold: Callable[[str], str] = str.strip
    join: Callable[..., str] = one_after_the_other
    left_out: Callable[[dict], bool] = nothing
    tolerance: float = 0.0

    @property
    def fields(self) -> tuple[str, ...]:
        """All names that a field may have."""
        named = " ".join((self.question, self.answer, self.choices, self.solution, self.margin, self.also))
        return tuple(named.replace("|", " ").split())


def behind_hashes(text: str) -> str:
    """GSM8K: "... #### 1,200" -> "1200"."""
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.rpartition("####")[2]).strip()


def without_unit(text: str) -> str:
    """ASDiv: "9 (apples)" -> "9"."""
    return re.sub(r"\s*\([^()]*\)\s*$", "", text).strip()


def from_python(text: str) -> str:
    """OCW: "np.arcsin(10/13)" -> "arcsin(10/13)"."""
    return re.sub(r"\bnp\.", "", text).strip()


def without_full_stop(text: str) -> str:
    """OlympiadBench: "$4$." -> "$4$"."""
    return text.strip().rstrip(".").strip()


def sentences(*texts: str) -> str:
    """The texts as sentences: a full stop is put behind one that has no mark at its end."""
    *before, last = filter(None, texts)
    return " ".join([*(text if text[-1] in ".!?,:;" else f"{text}." for text in before), last])


def with_table(title: str, table: str, unit: str, question: str) -> str:
    """TabMWP: the table above the question, and the unit that the answer is wanted in behind it."""
    return f"Table: {title}".strip() + f"\n{table}\n{question}" + (f" (in {unit})" if unit else "")


STEM = set("""abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics
    college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology
    high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics high_school_statistics
    machine_learning""".split())


def not_stem(row: dict) -> bool:
    """Whether a row of MMLU is about another subject; a file without subjects is taken to have only these."""
    subject = row.get("subject") or row.get("type") or row.get("topic")
    return bool(subject) and str(subject).strip().lower().replace(" ", "_") not in STEM


def several_answers(row: dict) -> bool:
    """Whether a row of ASDiv asks for several quantities at once, which its users leave out."""
    return ";" in str(row.get("answer"))


BENCHMARKS = {
    "amc23": Benchmark("AMC23", "math-ai/amc23", "question|problem", "answer"),
    "asdiv": Benchmark("ASDiv", "EleutherAI/asdiv@refs/convert/parquet", "body question", "answer", also="formula",
                       split="validation", shots="gsm", gold=without_unit, join=sentences, left_out=several_answers),
    "gsm8k": Benchmark("GSM8K", "openai/gsm8k:main", "question", "answer", also="cot", shots="gsm", gold=behind_hashes),
    "math500": Benchmark("MATH500", "HuggingFaceH4/MATH-500", "problem|question", "answer", solution="solution",
                         folders=("math_500", "math_oai"), shots="math"),
    "math": Benchmark("MATH", "DigitalLearningGmbH/MATH-lighteval", "problem|question", "answer", solution="solution",
                      shots="math"),
    "sat_math": Benchmark("SAT-math", "mcaleste/sat_multiple_choice_math_may_23", "question", "answer",
                          choices="options|possible_answers", split="train", folders=("sat",), shots="sat"),
    "mathqa": Benchmark("MathQA", "regisss/math_qa", "problem", "correct", choices="options", folders=("math_qa",),
                        also="rationale annotated_formula linear_formula", shots="mathqa"),
    "mawps": Benchmark("MAWPS", "garrethlee/MAWPS", "input|question", "target|answer", also="equation", shots="gsm",
                       gold=behind_hashes),
    "mmlu_stem": Benchmark("MMLU-STEM", "TIGER-Lab/MMLU-STEM", "question", "answer", choices="choices|options",
                           shots="mmlu_stem", left_out=not_stem),
    "ocw": Benchmark("OCW", "math-ai/minervamath", "problem|question", "answer", solution="solution",
                     folders=("minerva_math", "ocw_courses"), shots="ocw", gold=from_python, tolerance=0.01),
    "olympiadbench": Benchmark("OlympiadBench", "Hothan/OlympiadBench:OE_TO_maths_en_COMP", "context question", "final_answer",
                               solution="solution", margin="error", split="train", shots="math", gold=without_full_stop,
                               also="unit subfield modality is_multiple_answer"),
    "svamp": Benchmark("SVAMP", "ChilleD/SVAMP", "body question", "answer", also="equation question_concat", shots="gsm",
                       join=sentences),
    "tabmwp": Benchmark("TabMWP", "Arietem/tabmwp", "table_title table unit question", "answer", choices="choices",
                        solution="solution", also="table_for_pd row_num column_num grade", split="train", shots="gsm",
                        join=with_table),
}
