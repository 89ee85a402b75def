"""Runs a task of your own: a class in your own file, given as --task my_task.py:MyTask.

    from tasks.task import Problem

    class MyTask:
        def problem(self, i):                     # problem number i, the same at every call
            return Problem(question=f"What is {i} + {i}?", answer=str(2 * i))

        def prompt(self, problem, mode):          # text or messages; mode: plain, chat, think or no_think
            return f"Compute: {problem.question}\n"

        def grade(self, problem, reply):          # True or False, or a tasks.task.Verdict; reply.text is what was said
            return reply.text.strip() == problem.answer

Only `problem` is required. Without the others, the prompt is the question, and a reply is graded by its final answer, as in
tasks/task.py. In a chat, a text prompt becomes the user's turn, with the flag of the mode at its end. An attribute `count` is the
number of problems; without it they are endless.

The class may also have these, as in tasks/task.py: score (--reward score pays it), examine, answer_in, steps_in, well_formed,
has_steps, and for training on solutions reply, messages and useful_calls. What else a Task has would not be used, and is refused.
"""

from collections.abc import Sequence

from formats import plugins
from tasks.task import SWITCHES, Problem, Reply, Task
from tasks.verdict import Verdict

UNUSED = ("prepare", "lessons", "lesson", "document", "tools", "by_gain", "take_bills")    # what a Task has for our own tasks


class UserTask(Task):
    """Calls an object of the user's class, and checks the types of what it returns.

    An error in the user's code becomes a plugins.PluginError, with file and line."""

    def __init__(self, spec: str):
        self.source, make = spec, plugins.load(spec)
        if not callable(make) or not callable(getattr(make, "problem", None)):
            raise plugins.PluginError(f"{spec}: must be a class with a method problem(i); see tasks/user_task.py")
        with plugins.named(spec):
            self.own = make()
        self.count, self.has_steps = getattr(self.own, "count", None), bool(getattr(self.own, "has_steps", False))
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise plugins.PluginError(f"{spec}: count is {self.count!r}; use a whole number of problems, or None without end")
        if unused := [name for name in UNUSED if self._has(name)]:
            raise plugins.PluginError(f"{spec}: {unused[0]} would not be used in a task of your own; remove or rename it")
        self.own_reward = getattr(self.own, "own_reward", "") or ("the score of its own" if self._has("score") else "")

    def _has(self, name: str) -> bool:
        """Whether the user's object has something else under a name than Task has; it may be a Task itself."""
        found = getattr(self.own, name, getattr(Task, name))
        return getattr(found, "__func__", found) is not getattr(Task, name)

    def _call(self, method: str, *arguments):
        """Calls a method of the user's object, or that of Task if the object does not have it."""
        if not hasattr(self.own, method):
            return getattr(super(), method)(*arguments)
        with plugins.named(self.source):
            return getattr(self.own, method)(*arguments)

    def _expect(self, method: str, found, kinds, wanted: str):
        if not isinstance(found, kinds):
            raise plugins.PluginError(f"{self.source}: {method} gave {found!r:.60}; return {wanted}")
        return found

    def problem(self, i: int) -> Problem:
        problem = self._expect(f"problem({i})", self._call("problem", i), Problem, "a tasks.task.Problem")
        for name in ("question", "answer", "solution"):
            self._expect(f"the {name} of problem({i})", getattr(problem, name), str, "text")
        problem.task = self
        return problem

    def prompt(self, problem: Problem, mode: str) -> str | list[dict]:
        prompt = self._call("prompt", problem, mode)
        if mode == "plain":
            return self._expect("prompt()", prompt, str, "text in mode plain")
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt + SWITCHES[mode]}]
        return self._expect("prompt()", prompt, list, "text, or a list of messages")

    def grade(self, problem: Problem, reply: Reply) -> Verdict:
        verdict = self._expect("grade()", self._call("grade", problem, reply), bool | Verdict,
                               "True, False or a tasks.task.Verdict")
        return verdict if isinstance(verdict, Verdict) else Verdict(verdict, None, None, "ok" if verdict else "graded as wrong")

    def score(self, problem: Problem, reply: Reply, group: Sequence[Reply]) -> float:
        return self._expect("score()", self._call("score", problem, reply, group), int | float, "a number")

    def examine(self, problem: Problem, replies: Sequence[Reply]) -> None:
        self._call("examine", problem, replies)

    def reply(self, problem: Problem) -> tuple[str | None, str]:
        return self._call("reply", problem)

    def messages(self, problem: Problem) -> list[dict]:
        return self._call("messages", problem)

    def useful_calls(self, problem: Problem) -> list[str] | None:
        return self._call("useful_calls", problem)

    def answer_in(self, text: str) -> str | None:
        return self._call("answer_in", text)

    def steps_in(self, text: str) -> list[str]:
        return self._call("steps_in", text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        return self._call("well_formed", text, thinking)
