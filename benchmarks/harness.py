"""Compares the scores of evaluate.py --benchmark with those of lm-eval, question by question; bench.py harness runs this.

lm-eval (the Language Model Evaluation Harness of EleutherAI) gets the same checkpoint in float32, the same prompts as text,
greedy decoding, the same limit and stop texts. What remains its own: Hugging Face's `generate`, and how an answer is read and
judged, as in its tasks gsm8k_cot (regular expressions) and minerva_math (math_verify).

It may be installed apart from this repository's packages: --python names the interpreter that has it (pip install
"lm_eval[math]"). All files of a comparison stay in --keep. What is there is used again, so an interrupted bench goes on.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.records import Rows
from benchmarks.tables import why
from formats.files import write_text
from model import Transformer, load_both
from sampler import Sampler
from sources.fingerprint import fingerprint
from tasks.benchmarks.ask import FEW_SHOT_STOP, before
from tasks.benchmarks.read import open_benchmark
from tasks.benchmarks.score import chosen, prompts_for
from tasks.equivalence import same_answer
from tasks.task import Problem, Reply
from tokenizer import Tokenizer
from training import cli

LIMIT = 256                            # tokens of an answer
ROWS = 20                              # answers at once, on both sides
NAMES = ("gsm8k", "math500")
TEMPLATE = {"few-shot": FEW_SHOT_STOP, "rl": ("<|im_end|>",)}

# How lm-eval reads and judges an answer: what differs between its tasks gsm8k_cot and minerva_math, and the metric that counts.
GSM8K = r"""filter_list:
- name: flexible-extract
  filter:
  - {function: regex, group_select: -1, regex_pattern: '(-?[$0-9.,]{2,})|(-?[0-9]+)'}
  - {function: take_first}
metric_list:
- {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: false,
   regexes_to_ignore: [',', '\$', '(?s).*#### ', '\.$']}
"""
MATH = """process_results: !function judge.process_results
metric_list:
- {metric: math_verify, aggregation: mean, higher_is_better: true}
"""
JUDGES = {"gsm8k": (GSM8K, "exact_match"), "math500": (MATH, "math_verify")}


def task_file(name: str, template: str, folder: Path) -> str:
    """The task in lm-eval's language: our prompts from a file, and its own judge."""
    return f"""task: nanothink_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {json.dumps(str(folder / f"{name}.jsonl"))}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{do_sample: false, max_gen_toks: {LIMIT}, until: {json.dumps(list(TEMPLATE[template]))}}}
{JUDGES[name][0]}"""


def write_task(name: str, template: str, problems: Sequence[Problem], prompts: Sequence[str], folder: Path) -> None:
    """The files that lm-eval reads: a task, and a row for each prompt."""
    rows = [{"prompt": prompt, "answer": p.answer, "solution": p.solution} for prompt, p in zip(prompts, problems, strict=True)]
    file, text = folder / f"{name}.jsonl", "".join(cli.to_json(row) + "\n" for row in rows)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{file}: is of another comparison, with other prompts; choose another --keep")
    write_text(file, text)
    write_text(folder / f"{name}.yaml", task_file(name, template, folder))
    write_text(folder / "judge.py", "from lm_eval.tasks.minerva_math.utils import process_results\n")


def check_checkpoint(init: str, folder: Path) -> None:
    """ValueError where the answers in a folder are those of another checkpoint: other weights may get the same prompts."""
    file, found = folder / "checkpoint.txt", fingerprint(init)
    if file.exists() and file.read_text(encoding="utf-8") != found:
        raise ValueError(f"--keep {folder}: holds the answers of another checkpoint than --init {init}; choose another --keep")
    write_text(file, found)


def run_lm_eval(python: str, init: str, name: str, folder: Path) -> list[dict]:
    """lm-eval's own record of each question, in order: {"doc", "resps", "filtered_resps", its metric, ...}. What it has generated
    is in a cache; if its record is there, it is not run again."""
    out = folder / f"lm_eval_{name}"
    if not list(out.glob("**/samples_*.jsonl")):
        command = [python, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={Path(init).resolve()},dtype=float32",
                   "--tasks", f"nanothink_{name}", "--include_path", str(folder), "--batch_size", str(ROWS), "--device", "cpu",
                   "--use_cache", str(folder / f"cache_{name}"), "--output_path", str(out), "--log_samples"]
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            code = subprocess.run(command, stdout=2, env=os.environ | offline).returncode       # all it prints: to standard error
        except OSError as error:
            raise ValueError(f"--python {python}: cannot be run ({error})") from None
        if code:
            raise ValueError(f"lm-eval ended with {code}; --python {python} needs it: pip install \"lm_eval[math]\"")
    rows = [json.loads(line) for line in max(out.glob("**/samples_*.jsonl")).read_text().splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


def our_answers(model: Transformer, tokenizer: Tokenizer, name: str, asked: list, template: str, folder: Path) -> list[dict]:
    """[{"text", "tokens"}] of each question, greedily; from the folder if they are there."""
    file = folder / f"ours_{name}.jsonl"
    if not file.exists():
        stops = FEW_SHOT_STOP if template == "few-shot" else ()
        ids = [tokenizer.encode_document(p) if isinstance(p, str) else tokenizer.chat_prompt(p) for p in asked]
        done = Sampler(model, tokenizer, ROWS).generate(ids, 1, LIMIT, 0.0, stop_texts=[stops] * len(ids), progress=name)
        rows = [{"text": before(tokenizer.decode(c.tokens, skip_special=True), stops), "tokens": c.tokens} for [c] in done]
        write_text(file, "".join(cli.to_json(row) + "\n" for row in rows))
    return [json.loads(line) for line in file.read_text().splitlines()]


@torch.no_grad()
def parting(model: Transformer, tokenizer: Tokenizer, prompt: list[int], ours: list[int], theirs: str) -> tuple[int, float]:
    """Where two greedy continuations of a prompt part: (the number of tokens that are the same, by how many nats our model finds
    its own next token likelier than theirs). Nearly 0: rounding decided."""
    other = [*tokenizer.encode(theirs), *sorted(tokenizer.stop_ids)[:1]]
    same = next((i for i, (a, b) in enumerate(zip(ours, other)) if a != b), min(len(ours), len(other)))
    if same >= min(len(ours), len(other)):
        return same, 0.0
    logits = model(torch.tensor([prompt + ours[:same]]))[0, -1].double()
    return same, round(float(logits[ours[same]] - logits[other[same]]), 6)


def compared(problem: Problem, ours: dict, row: dict, metric: str) -> dict:
    """One question: what both answered, as each reads it, and whether it is right. (math_verify does not say what it reads.)"""
    text, theirs = ours["text"].strip(), row["resps"][0][0].strip()
    read = row["filtered_resps"][0] if metric == "exact_match" else None
    ours_read = problem.task.answer_in(text)
    return {"gold": problem.answer, "same_text": text == theirs,
            "same_answer": None if read is None else same_answer(ours_read, read.rstrip(".")),
            "ours": ours_read, "ours_right": problem.task.grade(problem, Reply(text)).right,
            "lm_eval": read, "lm_eval_right": bool(row[metric]),
            "ours_of_theirs": problem.task.grade(problem, Reply(theirs)).right}


def bench_harness(init: str, names: Sequence[str], data: str, template: str, limit: int, python: str, keep: str,
                  rows: Rows) -> dict:
    """{"init", "template", "limit", "rows": one for each benchmark, see `summed`}.

    init       the checkpoint
    names      some of NAMES
    data       the folder of the benchmarks' files, as in evaluate.py
    template   few-shot or rl
    limit      questions of each
    python     the interpreter that has lm-eval
    keep       the folder of this comparison
    """
    model, tokenizer = load_both(init, "cpu", torch.float32)
    if template == "rl" and tokenizer.chat.refusal:
        raise ValueError(f"--template rl: {tokenizer.chat.refusal}; use --template few-shot")
    folder = Path(keep or "runs/harness").resolve()
    check_checkpoint(init, folder)
    for name in names:
        task = open_benchmark(name, data)
        problems = chosen(task, limit)
        asked, _ = prompts_for(task, problems, template, True)
        ids = [tokenizer.encode_document(p) if isinstance(p, str) else tokenizer.chat_prompt(p) for p in asked]
        write_task(name, template, problems, [tokenizer.decode(each) for each in ids], folder)
        theirs = run_lm_eval(python, init, name, folder)
        ours = our_answers(model, tokenizer, name, asked, template, folder)
        found = [compared(p, a, row, JUDGES[name][1]) for p, a, row in zip(problems, ours, theirs, strict=True)]
        for one, a, row, prompt in zip(found, ours, theirs, ids):
            if not one["same_text"]:
                one["parting"] = parting(model, tokenizer, prompt, a["tokens"], row["resps"][0][0])
        rows.append(summed(task.benchmark.title, found))
    return {"init": Path(init).name, "template": template, "limit": LIMIT, "rows": list(rows)}


def summed(title: str, found: list[dict]) -> dict:
    """A benchmark: how many are right by each side, how often they say, read and judge the same, and every question."""
    return {"benchmark": title, "questions": len(found),
            "ours_right": sum(q["ours_right"] for q in found), "lm_eval_right": sum(q["lm_eval_right"] for q in found),
            "same_text": sum(q["same_text"] for q in found),
            "same_answer": None if found[0]["same_answer"] is None else sum(q["same_answer"] for q in found),
            "same_verdict": sum(q["ours_right"] == q["lm_eval_right"] for q in found),
            "same_verdict_on_one_text": sum(q["ours_of_theirs"] == q["lm_eval_right"] for q in found), "answers": found}


def lines(result: dict) -> list[str]:
    """A line of text for each benchmark, and one for each question on which the verdicts differ."""
    text = []
    for r in result["rows"]:
        text.append(f"{r['benchmark']}: {r['questions']} questions, right {r['ours_right']} (lm-eval {r['lm_eval_right']}); the "
                    f"same text {r['same_text']}, the same verdict {r['same_verdict']}, on one text "
                    f"{r['same_verdict_on_one_text']}")
        text += [f"  question {i}, gold {q['gold']}: ours {q['ours']!r} {q['ours_right']}, lm-eval {q['lm_eval']!r} "
                 f"{q['lm_eval_right']}; {why(q)}" for i, q in enumerate(r["answers"]) if q["ours_right"] != q["lm_eval_right"]]
    return text
