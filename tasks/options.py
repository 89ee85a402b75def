"""The options of a generated task, read from its SPEC: "world:tiny,ops=1-3" -> {"contexts": "zoo", ..., "ops": "1-3"}.

Options are NAME=VALUE, with commas between. A word without "=" is a preset: it stands for several options, and any of them that
is given beside it wins, wherever it stands.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields

# Generated tasks: {the name before the colon of a SPEC, which is also the file in tasks/: its class}. They also write documents.
GENERATED = {"world": "World", "knowledge": "Knowledge", "instructions": "Instructions", "needle": "Needle",
             "text": "Text"}


def is_generated(spec: str) -> bool:
    kind, colon, _ = str(spec).partition(":")
    return bool(colon) and kind in GENERATED


def need(condition: object, message: str) -> None:
    """ValueError with that message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def token_count(text: str) -> int:
    """"512" -> 512; "4k" -> 4096. ValueError for anything else."""
    number = text.removesuffix("k")
    need(number.isdecimal() and len(number) < 10, f"{text}: use a number of tokens, such as 512 or 4k")
    return int(number) * (1024 if text.endswith("k") else 1)


def read_options(spec: str, kind: type, presets: Mapping[str, str]) -> dict:
    """The options of a SPEC as values for the fields of a dataclass. ValueError for those that are unknown or given twice.

    spec      "world:tiny,ops=1-3": the task's name, a colon, its options; the name may be left out
    kind      the dataclass; a field's default says what a value of it is: text, a whole number or a number
    presets   {name: options}
    """
    task, where = kind.__name__.lower(), f"{kind.__module__.replace('.', '/')}.py, class {kind.__name__}"
    types, found, given = {option.name: type(option.default) for option in fields(kind)}, {}, set()

    def take(part: str) -> None:
        key, _, value = part.partition("=")
        need(key in types, f"{task} option {part!r} is not known: see the options in {where}")
        try:
            found[key] = types[key](value)
        except ValueError:
            raise ValueError(f"{task} option {part!r}: {value!r} is not a number") from None

    parts = list(filter(None, spec.removeprefix(f"{task}:").split(",")))
    for part in (part for part in parts if "=" not in part):
        named = f", or one of its presets: {', '.join(presets)}" if presets else ""
        need(part in presets, f"{task} option {part!r} is not known: see the options in {where}{named}")
        for option in presets[part].split(","):
            take(option)
    for part in (part for part in parts if "=" in part):
        key = part.partition("=")[0]
        need(key not in given, f"{task} option {key!r} is given twice")
        given.add(key)
        take(part)
    return found


def set_apart(spec: str, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """("world:ops=1-3,chat=0.3", ["chat"]) -> ("world:ops=1-3", {"chat": "0.3"}). ValueError for an option given twice."""
    task, _, text = spec.partition(":")
    rest, apart = [], {}
    for part in text.split(","):
        key, eq, value = part.partition("=")
        if not eq or key not in names:
            rest.append(part)
            continue
        need(key not in apart, f"{task} option {key!r} is given twice")
        apart[key] = value
    return f"{task}:{','.join(rest)}", apart
