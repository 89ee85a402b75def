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
"""

from formats import plugins
from tasks.task import SWITCHES, Problem, Reply, Task
from tasks.verdict import Verdict


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

    def answer_in(self, text: str) -> str | None:
        return self._call("answer_in", text)

    def steps_in(self, text: str) -> list[str]:
        return self._call("steps_in", text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        return self._call("well_formed", text, thinking)
