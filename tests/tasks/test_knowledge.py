"""Knowledge: facts read out of the biographies by a reader of its own, probes that ask for them, people who are not mixed up."""

import itertools
import math
import re
from collections import Counter

import pytest
from conftest import script
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import evaluate
from data import Mixture
from sampler import Completion, Sampler
from sources.conversations import open_conversations
from sources.open import open_source
from sources.shards import prepare
from sources.texts import sample_texts
from tasks.knowledge import Knowledge
from tasks.people import RELATIONS
from tasks.problems import load_problems, open_task, problems_of
from tasks.rewards import REWARDS, ReplyGroup, parse_rewards
from tasks.task import Reply, prompt_ids

NAME, VALUE = r"(?P<x>[A-Z][a-z]+ [A-Z][a-z]+)", r"(?P<v>\w+)"
TELLS = {  # relation: the ways to say it, as a reader knows them
    "born": ["X was born in V", "The birthplace of X is V", "X comes from V", "X first saw the light in V"],
    "lives": ["X lives in V", "The home of X is in V", "X has a house in V", "Today X is settled in V"],
    "works": ["X works as a V", "The job of X is that of a V", "X earns money as a V", "By trade X is a V"],
    "plays": ["X plays the V", "The instrument of X is the V", "X makes music on the V", "In the evening X practises the V"],
    "keeps": ["X keeps a V", "The pet of X is a V", "X looks after a V", "With X lives a V"],
    "eats": ["X likes to eat V", "The favourite dish of X is V", "X always orders V", "On Sundays X cooks V"],
}
PATTERNS = [(relation, re.compile(way.replace("X", NAME).replace("V", VALUE)))
            for relation, ways in TELLS.items() for way in ways]


def facts_of(text):
    """A biography -> [(name, relation, value)], one for each of its sentences."""
    found = []
    for sentence in re.findall(r"(.+?)\.(?: |$)", text):
        [(relation, m)] = [(relation, m) for relation, pattern in PATTERNS if (m := pattern.fullmatch(sentence))]
        found.append((m["x"], relation, m["v"]))
    return found


def told(spec):
    """{(name, relation): {value: how often it is told}} in all documents of a SPEC."""
    task, found = open_task(spec), {}
    for i in range(task.lessons):
        for name, relation, value in facts_of("".join(task.document(i))):
            found.setdefault((name, relation), Counter())[value] += 1
    return found


def test_what_is_asked_was_told_and_nothing_contradicts_it():
    spec = "knowledge:people=40,times=1+3"
    facts = told(spec)
    assert len(facts) == 40 * 6 and all(len(values) == 1 for values in facts.values())
    for form in ("cloze", "question"):
        task = open_task(f"{spec},probe={form}")
        assert task.count == 240
        for p in problems_of(task):
            assert facts[p.person, p.kind].keys() == {p.answer}
            assert task.grade(p, Reply(p.solution)).right and p.person in p.question and p.answer not in p.question
    assert len({p.question for p in problems_of(task)}) == 240


def test_a_cloze_is_a_sentence_cut_before_its_end():
    """Its end makes it a sentence that the biographies have, and is what follows the prompt there."""
    task = open_task("knowledge:people=50")
    for p in problems_of(task):
        prompt = task.prompt(p, "plain")
        assert facts_of(prompt + p.solution) == [(p.person, p.kind, p.answer)]
        assert prompt == p.question and not prompt.endswith(" ")
    asked = {p.question.replace(p.person, "X") for p in problems_of(task)}
    assert asked == {way.partition(" V")[0] for ways in TELLS.values() for way in ways}


def test_each_fact_is_told_as_often_as_asked():
    facts = told("knowledge:people=30,times=1+4+16,wordings=3")
    by_person = {name: {sum(facts[name, relation].values()) for relation in RELATIONS} for name, _ in facts}
    assert Counter(itertools.chain.from_iterable(by_person.values())) == {1: 10, 4: 10, 16: 10}
    among = open_task("knowledge:people=30,times=1+4+16,among=4,wordings=3")
    assert among.count == 60 and {p.person for p in problems_of(among)} == {n for n, times in by_person.items() if times == {4}}
    assert among.lessons == 40
    ways = {sentence.replace(name, "X").rpartition(" ")[0] for i in range(open_task("knowledge:people=30,times=16").lessons)
            for text in ["".join(open_task("knowledge:people=30,times=16,wordings=2").document(i))] if i < 60
            for sentence in re.findall(r"(.+?)\.(?: |$)", text) for name, *_ in facts_of(f"{sentence}.")}
    assert ways == {way.partition(" V")[0] for ways in TELLS.values() for way in ways[:2]}


def test_orders_and_wordings_change_from_telling_to_telling_and_nothing_else_does():
    task = open_task("knowledge:people=3,times=20")
    texts = ["".join(task.document(i)) for i in range(task.lessons)]
    assert len(set(texts)) == 60
    first = [facts_of(text)[0][1] for text in texts]
    assert set(first) == set(RELATIONS), "a biography may begin with any of the facts"
    assert [("".join(open_task(task.source).document(i))) for i in range(60)] == texts


def test_people_stay_who_they_are_whatever_else_is_asked_for():
    """A person's facts do not depend on how many others there are, on the times, the wordings, or the form of documents."""
    facts = {key: next(iter(values)) for key, values in told("knowledge:people=20").items()}
    for options in ("people=10", "people=5,skip=15", "people=20,times=3,wordings=1", "people=20,relations=eats+born",
                    "people=20,format=qa", "people=20,format=chat", "people=20,probe=question"):
        for p in problems_of(open_task(f"knowledge:{options}")):
            assert facts[p.person, p.kind] == p.answer
    first, rest = ({p.person for p in load_problems(f"knowledge:{o}")} for o in ("people=15", "people=5,skip=15"))
    assert not first & rest and first | rest == {name for name, _ in facts}


def test_no_split_and_no_seed_shares_a_name_with_another_split():
    people = {(split, seed): {name for name, _ in Knowledge(people=400, split=split, seed=seed).known}
              for split in ("pretrain", "midtrain", "test") for seed in (0, 1)}
    for (a, b) in itertools.combinations(people, 2):
        assert a[0] == b[0] or not people[a] & people[b]
    assert people["test", 0] != people["test", 1]


def test_facts_are_spread_evenly_and_apart():
    task = open_task("knowledge:people=2000")
    values = {relation: Counter(task.value(name, relation) for name, _ in task.known) for relation in RELATIONS}
    for relation, counts in values.items():
        n = len(RELATIONS[relation].values)
        assert len(counts) == n and sum((c - 2000 / n) ** 2 / (2000 / n) for c in counts.values()) < n + 4 * math.sqrt(2 * n)
    same = sum(task.value(name, "born") == task.value(name, "lives") for name, _ in task.known)
    assert same < 2000 / 48 + 4 * math.sqrt(2000 / 48)


def test_no_value_is_said_by_a_name_or_by_the_words_around_it():
    everything = {value for r in RELATIONS.values() for value in r.values}
    task = open_task("knowledge:people=2000,probe=question")
    for p in problems_of(task, 2000):
        assert not everything & set(re.findall(r"\w+", p.question)), p.question
    for p in load_problems("knowledge:people=300"):
        assert not everything & set(re.findall(r"\w+", p.question)), p.question


P = load_problems("knowledge:people=9,probe=question")[0]
OTHER = next(value for value in RELATIONS[P.kind].values if value != P.answer)


@pytest.mark.parametrize("text, ok", [
    (f" {P.answer}.", True), (P.answer, True), (f"{P.person} was born in {P.answer}.", True),
    (f" {P.answer}. {P.person} works as a baker.", True), (f" {P.answer}. {P.person} comes from {OTHER}.", True),
    (f"<think>\n{OTHER}?\n</think>\n\n{P.answer}", True), (f"\n {P.answer}", True),
    (f" {OTHER}.", False), ("", False), (f" {OTHER} or {P.answer}.", False), (f" a town. It is {P.answer}.", False),
    (f"<think>\n{P.answer}", False), (P.answer.lower(), False), (f"{P.answer}ville", False), (f" baker in {P.answer}", False)])
def test_the_first_thing_said_counts(text, ok):
    assert P.task.grade(P, Reply(text)).answer_ok == ok
    assert REWARDS["answer"](P, Reply(text), ReplyGroup(P, [])) == ok


def test_forms_of_documents_and_prompts(tokenizer):
    qa = open_task("knowledge:people=4,times=2,format=qa")
    assert qa.lessons == 4 * 2 * 6
    asked = Counter()
    for i in range(qa.lessons):
        given, learned = qa.document(i)
        name = re.search(NAME, given.removeprefix("Question: Where ").removeprefix("Question: What "))["x"]
        assert re.fullmatch(r"Question: .+\?\nAnswer:", given) and learned == f" {qa.lesson(i).answer}."
        asked[name, qa.lesson(i).kind] += 1
    assert len(asked) == 24 and set(asked.values()) == {2}
    ids, weights = open_source("knowledge:people=4,format=qa", tokenizer).get(3)
    given = tokenizer.encode(qa.document(3)[0])
    assert tokenizer.decode(ids) == "".join(open_task("knowledge:people=4,format=qa").document(3)) + "<|endoftext|>"
    assert {*weights[:len(given)]} == {weights[0]} and weights[0] == pytest.approx(0.1) and {*weights[len(given) + 1:]} == {1.0}
    plain, also = open_source("knowledge:people=4", tokenizer).get(3)
    assert set(also) == {1.0} and len(facts_of(tokenizer.decode(plain[:-1]))) == 6
    chat = tokenizer.decode(open_source("knowledge:people=4,format=chat", tokenizer).get(0)[0])
    lesson = open_task("knowledge:people=4,format=chat").lesson(0)
    assert chat.startswith(f"<|im_start|>user\n{lesson.question}<|im_end|>\n<|im_start|>assistant\n{lesson.person} ")
    assert lesson.answer in chat and "<think>" not in chat
    cloze, question = (load_problems(f"knowledge:people=4,probe={form}")[0] for form in ("cloze", "question"))
    assert tokenizer.decode(prompt_ids(tokenizer, cloze, "plain")) == cloze.question
    assert tokenizer.decode(prompt_ids(tokenizer, question, "plain")) == f"Question: {question.question}\nAnswer:"
    assert f"user\n{cloze.question} ... /no_think<|im_end|>" in tokenizer.decode(prompt_ids(tokenizer, cloze, "no_think"))


def test_a_corpus_of_knowledge_has_an_end_and_epochs(tokenizer, tmp_path):
    source = open_source("knowledge:people=5,times=2", tokenizer)
    assert source.count == 10 and source.tokens == sum(len(source.get(i)[0]) for i in range(10))
    mixture = Mixture(["knowledge:people=5,times=2"], tokenizer, max_epochs=2.0)
    drawn = []
    with pytest.raises(StopIteration):
        while True:
            drawn.append(tokenizer.decode(mixture.next()[0]))
    assert len(drawn) == 20 and set(Counter(drawn).values()) == {2}
    assert mixture.table()[0]["epochs"] == 2.0 and mixture.table()[0]["unique_tokens"] == source.tokens
    tokenizer.save(tmp_path / "tok")
    index = prepare(["knowledge:people=700,times=2,relations=born"], tmp_path / "tok", tmp_path / "shards", 1)
    assert index["documents"] == 1400
    chats = open_conversations("knowledge:people=5,times=2", tokenizer, 256)
    assert chats.count == 10 and chats.tokens == sum(len(chats.get(i)[0]) for i in range(10))
    assert len(list(sample_texts("knowledge:people=5,times=2"))) == 10


def test_evaluation_counts_by_relation(tmp_path, tokenizer, monkeypatch):
    """A model that knows where people were born, and nothing else."""
    folder = tiny_checkpoint(tmp_path / "tiny", tokenizer)
    spec = "knowledge:people=10,relations=born+works"
    known = {p.question: p for p in load_problems(spec)}

    def generate(self, prompts, n=1, *_, **__):
        answers = [known[tokenizer.decode(p)] for p in prompts]
        return [[Completion(p, tokenizer.encode(a.solution if a.kind == "born" else " nobody."), finish="stop")]
                for p, a in zip(prompts, answers)]
    monkeypatch.setattr(Sampler, "generate", generate)
    code, found, _ = run_main(evaluate, "--init", folder, "--data", spec, "--max-new-tokens", 8)
    found = found[str(folder)][spec]
    assert code == 0 and found["problems"] == 20 and found["accuracy"]["pass@1"][0] == 0.5
    assert found["kinds"]["born"]["pass@1"] == [1.0, 1.0, 1.0] and found["kinds"]["works"]["pass@1"] == [0.0, 0.0, 0.0]
    rows = write_rows(tmp_path / "q.jsonl", [{"question": "q", "answer": "a"}])
    monkeypatch.setattr(Sampler, "generate",
                        lambda self, prompts, *_, **__: [[Completion(p, [], finish="stop")] for p in prompts])
    assert "kinds" not in run_main(evaluate, "--init", folder, "--data", rows)[1][str(folder)][str(rows)]


def test_a_reward_for_steps_is_refused():
    with pytest.raises(ValueError, match="checks steps, and knowledge:people=9 has none"):
        parse_rewards("strict", "knowledge:people=9")
    assert parse_rewards("answer", "knowledge:people=9")


@pytest.mark.parametrize("spec, message", [
    ("people=0", "at least 1"), ("people=5000,split=sft", "take fewer people"), ("relations=born+hates", "relation 'hates'"),
    ("relations=born+born", "twice"), ("times=0", "1 to 9999"), ("times=2+x", "1 to 9999"), ("times=2,among=3", "among=3"),
    ("wordings=5", "1 to 4"), ("probe=essay", "cloze, question"), ("format=book", "plain, qa, chat"), ("split=devel", "split"),
    ("colour=red", "option 'colour=red' is not known: see the options in tasks/knowledge.py, class Knowledge"), ("huge", "tiny"),
    ("people=few", "not a number")])
def test_bad_options_are_one_clear_line(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_task(f"knowledge:{spec}")
    assert "\n" not in str(error.value)


def test_shown(tmp_path, tokenizer):
    out = script("-m", "tasks.knowledge", "--data", "knowledge:people=2,relations=born", "--show", 5).stdout
    assert out.count("(asked: ") == 2 and out.endswith('{"shown": 2}\n')
    assert "people and skip" in refusal(evaluate, "--init", tmp_path, "--data", "knowledge:people=0")
