"""Reads conversations for sft.py and preference pairs for dpo.py, and turns them into documents.

A SPEC of conversations is one of:

    conversations.jsonl    rows of {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...]}
    gsm8k/train.jsonl      rows with a question and an answer: GSM8K, MATH, or any other form that tasks/questions.py reads
    world:ops=1-4,...      problems of the reasoning world, or of another generated task (tasks/problems.py)

A SPEC of preference pairs is a file of rows in one of two forms. The two conversations of a pair differ only in the last turn:

    {"prompt": text or messages, "chosen": text, "rejected": text}          {"chosen": messages, "rejected": messages}

If an answer is cut at a token, a row has all three as texts and also as token ids: {"ids": {"prompt": [...], "chosen": [...],
"rejected": [...]}}. The prompt is then everything before the cut (augment.py pivotal writes these).

Keys of rows and messages:

- "system": the first turn, a system message.
- A question or an answer in the same row must repeat what the messages say.
- "reasoning" (also "reasoning_content" or "thinking") of an assistant's message. A <think> block at the start of the content
  becomes the reasoning too.
- "weight": 0 or "train": false: the turn has no loss.
- "unfinished": true: the last turn was cut off. The model learns the text, and not that it ends there.
- "content": text, or a list of parts {"type": "text", "text": ...}.
- "tool" is the role of what a tool answers, which has no loss. A call is the end of an assistant's content, as text:
  <tool_call>NAME ARGUMENT</tool_call> (tasks/tools.py).
- Calls under a key of their own ("tool_calls"), and all other keys that are not metadata (formats/rows.py), are refused.

Files may also be .jsonl.gz or .parquet. Each conversation is one document, so packed conversations do not see each other. The
loss is only on what an assistant says, and in a pair only on the last turn.

Simpler than it could be: every rank holds all files, tokenised, in memory.
"""

from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from formats.chat import END_THINK, THINK, split_thinking
from formats.rows import given, read_rows, refuse_unknown, text_at
from sources.documents import Documents
from sources.shares import SILVER, in_share
from tasks.options import is_generated
from tasks.problems import load_problems, open_task
from tasks.task import Problem
from tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
REASONING = ("reasoning", "reasoning_content", "thinking")
ABOUT_PAIRS = ("score_chosen", "score_rejected", "chosen_score", "rejected_score", "chosen_right", "rejected_right")
# keys by which some data sets repeat a turn: (True: the first turn of this role, False: the last; the role; a name for messages)
ASKED, ANSWERED = (True, "user", "the first thing that the user says"), (False, "assistant", "the last thing that is answered")
REPEATED = {"prompt": ASKED, "question": ASKED, "problem": ASKED, "solution": ANSWERED, "answer": ANSWERED}


# messages

def assistant(text: str, reasoning: str | None, where: str) -> dict:
    """An assistant's turn. A think block at the start of the text becomes its reasoning, unless the reasoning is given separately
    (not None)."""
    inside, said = split_thinking(text)
    if reasoning is None and THINK in text and END_THINK not in text:
        raise ValueError(f"{where}: {THINK} is never closed, so everything after it would be reasoning; add {END_THINK}")
    if reasoning is not None and inside is not None:
        raise ValueError(f"{where}: the reasoning is given twice, separately and as a block in the content; keep one")
    reasoning = inside if reasoning is None else reasoning
    if reasoning is not None and any(mark in part for mark in (THINK, END_THINK) for part in (reasoning, said)):
        raise ValueError(f"{where}: a think block must be at the start of the content, and the only one; found {THINK} or "
                         f"{END_THINK} elsewhere too")
    if not said.strip() and not (reasoning or "").strip():
        raise ValueError(f'{where}: the assistant says nothing ("content" is empty), and that would be learned; remove the turn')
    return {"role": "assistant", "content": said, "reasoning": reasoning}


def content_of(message: dict, where: str) -> str:
    """The text of a message: "content", as text or as a list of text parts, joined."""
    content = message.get("content")
    if not isinstance(content, list):
        text = text_at(message, "content", where)
        if text is None:
            raise ValueError(f'{where} must have "role" and "content"; its content is null or missing')
        return text
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f'{where}: "content" must be text, or parts of {{"type": "text", "text": ...}}; got {str(part):.60}')
        refuse_unknown(part, ("type", "text"), where, "a part of the content", metadata=False)
    return "".join(part["text"] for part in content)


def reasoning_of(message: dict, where: str) -> str | None:
    """The reasoning of a message that is given separately, under any of its usual names, or None."""
    found = {key: text for key in REASONING if (text := text_at(message, key, where)) is not None}
    if len(set(found.values())) > 1:
        raise ValueError(f"{where}: {' and '.join(found)} differ; keep one")
    return next(iter(found.values()), None)


def weight_of(message: dict, where: str) -> float | None:
    """The loss weight of a turn, from "weight" (0 or 1) or "train" (true or false): 0.0, 1.0, or None if neither is given."""
    weight, train = message.get("weight"), message.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ValueError(f'{where}: "weight" must be 0 or 1; it is {str(weight):.60}')
    if train is not None and not isinstance(train, bool):
        raise ValueError(f'{where}: "train" must be true or false; it is {str(train):.60}')
    if weight is not None and train is not None and weight != train:
        raise ValueError(f'{where}: "weight" and "train" contradict each other; keep one')
    said = weight if train is None else train
    return None if said is None else float(said)


def unfinished_in(message: dict, where: str) -> bool:
    """Whether a turn was cut off: "unfinished", true or false."""
    unfinished = message.get("unfinished")
    if unfinished is not None and not isinstance(unfinished, bool):
        raise ValueError(f'{where}: "unfinished" must be true or false; it is {str(unfinished):.60}')
    return bool(unfinished)


def read_messages(messages: list[dict], where: str) -> list[dict]:
    """Messages of a file in the form for encode_chat, with "weight" if it is given. `where` names file and line."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError(f"{where}: the messages must be a list of {{\"role\", \"content\"}}")
    turns = []
    for number, m in enumerate(messages):
        here = f"{where}: message {number}"
        if m.get("role") not in ROLES:
            raise ValueError(f"{where}: unknown role {m.get('role')!r}; use one of {', '.join(ROLES)}")
        refuse_unknown(m, ("role", "content", *REASONING, "weight", "train", "unfinished"), here, "a message", metadata=False)
        reasoning, weight = reasoning_of(m, here), weight_of(m, here)
        if m["role"] == "assistant":
            turn = assistant(content_of(m, here), reasoning, here)
        elif reasoning is not None or weight:
            what = "reasoning" if reasoning is not None else '"weight" or "train"'
            raise ValueError(f"{here}: {what} belongs to an assistant's turn, and the role is {m['role']}")
        else:
            turn = {"role": m["role"], "content": content_of(m, here)}
        if unfinished_in(m, here):
            if m["role"] != "assistant" or number + 1 < len(messages):
                raise ValueError(f'{here}: only the last turn, an assistant\'s, can be "unfinished"')
            turn["unfinished"] = True
        turns.append(turn if weight is None else turn | {"weight": weight})
    return turns


def with_system(row: dict, messages: list[dict], where: str) -> list[dict]:
    """The messages, after a system turn if the row has a "system" text."""
    system = text_at(row, "system", where)
    if system and messages and messages[0]["role"] == "system":
        raise ValueError(f'{where}: "system" is given twice, as a key of the row and as a message; keep one')
    return [{"role": "system", "content": system}, *messages] if system else messages


def read_conversation(row: dict, where: str) -> list[dict]:
    """The turns of a row of {"messages"}; at least one of them must have a loss."""
    if not isinstance(row, dict) or not given(row.get("messages")):
        raise ValueError(f"{where}: the messages must be a list of {{\"role\", \"content\"}}")
    refuse_unknown(row, ("messages", "system", *REPEATED), where, "a row of messages")
    messages = read_messages(row["messages"], where)
    for key, (first, role, says) in REPEATED.items():
        said = [content_of(m, where) for m in row["messages"] if m["role"] == role]
        if given(row.get(key)) and text_at(row, key, where) not in (said[:1] if first else said[-1:]):
            raise ValueError(f'{where}: "{key}" is not {says} in the messages; remove it')
    if not any(m["role"] == "assistant" and m.get("weight") != 0 for m in messages):
        raise ValueError(f"{where}: no turn of an assistant (or none with a weight above 0), so there is nothing to learn; add "
                         "one or remove it")
    return with_system(row, messages, where)


def encode(tokenizer: Tokenizer, messages: list[dict], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (n,) int32 and loss weights (n,) float32 of a conversation."""
    said = [{key: value for key, value in m.items() if key != "weight"} for m in messages]
    try:
        ids, mask = tokenizer.encode_chat(said)
        for n, m in enumerate(messages):                  # the ids of the first turns are a prefix of the ids of all
            if m.get("weight") == 0 and m["role"] == "assistant":
                start, end = (len(tokenizer.encode_chat(said[:k])[0]) for k in (n, n + 1))
                mask[start:end] = [0.0] * (end - start)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None
    return np.array(ids, np.int32), np.array(mask, np.float32)


def problem_turns(problem: Problem, i: int, no_think: float = 0.0, unflagged: float = 0.0) -> list[dict]:
    """Problem number i as a turn of the user and a turn of the assistant, with or without thinking. The solution goes into the
    think block. (A solution with calls of tools has several turns, and stands in them without a block.)

    no_think is the share of the problems in Qwen3's second mode (arXiv 2505.09388, section 4.3): the question ends in
    " /no_think", and the think block is empty and has no loss. The other questions end in " /think", except for a share
    `unflagged` of them, because thinking is the default. The mode depends only on i, and the modes are evenly spread
    (sources/shares.py). A problem without a worked solution is always answered without thinking.
    """
    answer, *more = problem.task.messages(problem)
    working = answer.get("reasoning")
    if not no_think:
        flag, reasoning = "", working or None
    elif not working or in_share(i, no_think):
        flag, reasoning = " /no_think", ""
    else:
        flag, reasoning = "" if in_share(i, unflagged, SILVER) else " /think", working
    return [{"role": "user", "content": problem.question + flag}, answer | {"reasoning": reasoning}, *more]


# conversations

class GeneratedChats:
    """The lessons of a generated task as conversations: document i is lesson i."""

    def __init__(self, name: str, tokenizer: Tokenizer, T: int, no_think: float = 0.0, unflagged: float = 0.0, look: int = 200):
        self.task, self.tokenizer, self.T = open_task(name, tokenizer), tokenizer, T
        self.modes, self.count = (no_think, unflagged), self.task.lessons
        longest = max(len(self._encode(i)[0]) - 1 for i in range(min(look, self.count or look)))
        if longest > T:
            raise ValueError(f"{name}: a conversation takes {longest} tokens, --seq-len is {T}; raise --seq-len, "
                             "or lower ops")

    @cached_property
    def tokens(self) -> int:
        """Tokens in all conversations of a task that ends."""
        return sum(len(self._encode(i)[0]) for i in range(self.count))

    def _encode(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return encode(self.tokenizer, problem_turns(self.task.lesson(i), i, *self.modes), f"problem {i}")

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Document i: tokens (n,) and loss weights (n,). One that is too long is replaced by another problem (this is rare: none
        of the first problems was too long)."""
        for again in range(1 if self.count else 100):
            ids, weights = self._encode(i + again * 2 ** 36)
            if len(ids) - 1 <= self.T:
                return ids, weights
        raise ValueError(f"problem {i}: a conversation takes {len(ids) - 1} tokens, --seq-len is {self.T}; raise --seq-len")


def open_conversations(name: str, tokenizer: Tokenizer, T: int, no_think: float = 0.0,
                       unflagged: float = 0.0) -> GeneratedChats | Documents:
    """A SPEC of conversations without its weight -> a source with .get(i) and .count, as in sources/documents.py."""
    tokenizer.encode_chat([])                             # refuses a tokenizer without ChatML's tokens
    if is_generated(name):
        return GeneratedChats(name, tokenizer, T, no_think, unflagged)
    rows = list(read_rows(name))
    where, row = rows[0]
    if isinstance(row, dict) and not any(given(row.get(key)) for key in ("messages", "question", "problem")):
        raise ValueError(f'{where}: no field "messages", "question" or "problem" (found: {", ".join(row)})')
    if any(given(row.get("messages")) for _, row in rows if isinstance(row, dict)):
        conversations = ((where, read_conversation(row, where)) for where, row in rows)
    else:
        conversations = ((where, problem_turns(problem, i, no_think, unflagged))
                for i, ((where, _), problem) in enumerate(zip(rows, load_problems(name), strict=True)))
    documents = []
    for where, messages in tqdm(conversations, desc=f"tokenise {name}", total=len(rows), unit=" conversations", leave=False):
        documents.append(encode(tokenizer, messages, where))
        check_length(len(documents[-1][0]) - 1, T, where, "conversation")
    ids, weights = zip(*documents)
    return Documents([(np.concatenate(ids), np.cumsum([0] + [len(d) for d in ids]), np.concatenate(weights))])


def check_length(slots: int, T: int, where: str, what: str) -> None:
    """ValueError for a document of more slots than a row has."""
    if slots > T:
        raise ValueError(f"{where}: the {what} takes {slots} tokens, --seq-len is {T}; raise --seq-len to at least "
                         f"{slots}, or remove the line")


# preference pairs

class Pairs:
    """The preference pairs of a file. A pair is a list of documents that stay together in a row: the chosen answer, the rejected
    answer, and for KTO a mismatched answer (the chosen answer of the next pair, after the prompt of this pair)."""

    def __init__(self, name: str, tokenizer: Tokenizer, T: int, mismatched: bool = False):
        if is_generated(name):
            raise ValueError(f"{name}: pairs come from a file; make one with python augment.py pairs")
        tokenizer.encode_chat([])
        self.name, self.size, self.pairs = name, 3 if mismatched else 2, []
        rows = list(read_rows(name))
        for where, row in tqdm(rows, desc=f"tokenise {name}", unit=" pairs", leave=False):
            self.pairs.append(read_pair(row, tokenizer, where))
        self.count = len(self.pairs)
        if self.count < self.size - 1:
            raise ValueError(f"{name}: holds {self.count} pairs; --loss kto needs at least two, others one")
        self.reference = torch.zeros(self.count, self.size, dtype=torch.float64)              # dpo.py fills it in
        self.slots = [sum(len(ids) - 1 for ids, *_ in self.get(i)) for i in range(self.count)]
        for slots, (where, _) in zip(self.slots, rows):
            check_length(slots, T, where, f"pair, {self.size} answers each with their prompt,")
        self.tokens = sum(self.slots) + self.size * self.count

    def get(self, i: int) -> list[tuple]:
        """Pair i: [(tokens (n,), loss weights (n,), log-probability under the reference), ...]."""
        chosen, rejected, prompt = self.pairs[i]
        answers = [chosen, rejected]
        if self.size == 3:
            (ids, weights), _, start = self.pairs[(i + 1) % self.count]
            answers.append((np.concatenate([chosen[0][:prompt], ids[start:]]),
                            np.concatenate([chosen[1][:prompt], weights[start:]])))
        return [(*answer, float(known)) for answer, known in zip(answers, self.reference[i])]


def read_ids(row: dict, tokenizer: Tokenizer, where: str) -> tuple[tuple, tuple, int]:
    """A row of a pair that is given token by token, as read_pair."""
    ids, texts = row["ids"], ("prompt", "chosen", "rejected")
    refuse_unknown(row, (*texts, "ids", *ABOUT_PAIRS), where, "a pair by its ids")
    if not isinstance(ids, dict) or set(ids) != set(texts) or not all(
            isinstance(part, list) and part and all(type(i) is int for i in part) for part in ids.values()):
        raise ValueError(f'{where}: "ids" must have lists of token ids for prompt, chosen and rejected')
    for key, part in ids.items():
        if not all(0 <= i < len(tokenizer) for i in part) or tokenizer.decode(part) != row.get(key):
            raise ValueError(f'{where}: "ids" of {key} are not its text in the tokenizer of --init; make the pairs with a '
                             "checkpoint that has this tokenizer")
    if ids["chosen"] == ids["rejected"]:
        raise ValueError(f"{where}: chosen equals rejected, so there is nothing to prefer; remove the line")
    start = len(ids["prompt"])
    sides = [np.array(ids["prompt"] + ids[key], np.int32) for key in ("chosen", "rejected")]
    return *((side, (np.arange(len(side)) >= start).astype(np.float32)) for side in sides), start


def read_pair(row: object, tokenizer: Tokenizer, where: str) -> tuple[tuple, tuple, int]:
    """A row of a file of pairs -> (ids, weights) of the chosen answer, the same of the rejected one, and the number of
    tokens of their prompt."""
    if isinstance(row, dict) and given(row.get("ids")):
        return read_ids(row, tokenizer, where)
    if not isinstance(row, dict) or row.get("chosen") is None or row.get("rejected") is None:
        raise ValueError(f'{where}: a pair needs the fields "chosen" and "rejected", and "prompt" unless they are '
                         "lists of messages")
    repeated = ("messages",) if row.get("messages") == row["chosen"] else ()      # as in UltraFeedback
    refuse_unknown(row, ("prompt", "chosen", "rejected", "system", *ABOUT_PAIRS, *repeated), where, "a pair")
    prompt, sides = row.get("prompt"), []
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    elif prompt is not None:
        prompt = read_messages(prompt, where)
    for key in ("chosen", "rejected"):
        here = f"{where}, {key}"
        turns = [assistant(row[key], None, here)] if isinstance(row[key], str) else read_messages(row[key], here)
        brings_prompt = len(turns) > 1
        if brings_prompt and prompt and turns[:len(prompt)] != prompt:
            raise ValueError(f"{here}: the messages begin in another way than \"prompt\" does; remove one of them")
        whole = with_system(row, turns if brings_prompt else [*(prompt or []), *turns], where)
        if len(whole) < 2 or whole[-1]["role"] != "assistant":
            raise ValueError(f"{where}: chosen and rejected must each end a conversation with an assistant's turn")
        if any(m.get("weight", m is whole[-1]) != (m is whole[-1]) for m in whole):
            raise ValueError(f'{here}: in a pair the loss falls on the last turn alone, and "weight" or "train" says otherwise; '
                             "remove them")
        sides.append([{k: v for k, v in m.items() if k != "weight"} for m in whole])
    if sides[0][:-1] != sides[1][:-1]:
        raise ValueError(f"{where}: chosen and rejected answer different prompts; only their last turns may differ")
    try:
        start = len(tokenizer.encode_chat(sides[0][:-1], add_generation_prompt=True)[0])
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None
    encoded = []
    for whole in sides:
        ids, weights = encode(tokenizer, whole, where)
        weights[:start] = 0                                                   # earlier answers are part of the prompt
        encoded.append((ids, weights))
    if np.array_equal(encoded[0][0], encoded[1][0]):
        raise ValueError(f"{where}: chosen equals rejected, so there is nothing to prefer; remove the line")
    return *encoded, start
