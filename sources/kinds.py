"""Finds out what a SPEC holds: the world, questions with answers, conversations, or text."""

from formats import plugins
from formats.rows import given, read_rows
from formats.texts import read_texts
from tasks.options import is_generated


def kind_of(spec: str) -> str:
    """What a SPEC holds: "world", "questions" (with answers to check; also another task), "conversations", or "text". The first
    row of a file decides. "loss" for loss:SPEC, which asks for the loss on any SPEC."""
    if spec.startswith("loss:"):
        return "loss"
    if spec.startswith("world:"):
        return "world"
    if is_generated(spec) or plugins.is_plugin(spec):
        return "questions"
    if spec.endswith(".txt"):
        next(read_texts(spec))
        return "text"
    _, row = next(read_rows(spec), (None, {}))
    there = {key for key, value in row.items() if given(value)} if isinstance(row, dict) else set()
    if "text" in there:
        return "text"
    return "conversations" if "messages" in there else "questions" if {"question", "problem"} & there else "text"
