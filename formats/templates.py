"""Chat templates (Jinja programs by which transformers and servers write conversations): ours, and a check of others.

`Tokenizer.encode_chat` writes ChatML without a template, and makes a loss mask. So the template of a checkpoint is compared with
ours on a few conversations. Only the start may differ: a begin-of-text token, and a default system message (Qwen2.5 and SmolLM2
have one). encode_chat then writes the same start. A template with any other difference in these is refused. The conversations
have no reasoning and no turns of tools: many templates leave reasoning out, and each writes tools in its own way. Both are
written as here, whatever the template of a checkpoint does with them, so a checkpoint learns this form in its training.

A saved checkpoint always has our template, with that start. So it gives the same ids and mask as in training. In addition to
ChatML it marks what an assistant says ({% generation %}), and takes reasoning, `think`, and `enable_thinking` (Qwen3's name).
"""

import json
import re

# `think` is as in encode_chat; enable_thinking=False is think=False. Without both, the flags in the user's turns decide.
BODY = (
    r"{% macro text(content) %}{% if content is string %}{{ content }}{% elif content %}{% for part in content %}"
    r"{% if part.type != 'text' %}{{ raise_exception('only parts of type text can be written') }}{% endif %}{{ part.text }}"
    r"{% endfor %}{% endif %}{% endmacro %}"
    r"{% set mode = namespace(think=none) %}{% for m in messages %}{% set content = text(m.content) %}"
    r"{% if m.tool_calls %}{{ raise_exception('tool calls cannot be written') }}{% endif %}"
    r"{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    r"{% set reasoning = m.reasoning if m.reasoning is defined else m.reasoning_content %}"
    r"{% set opening = '<think>\n' if reasoning else '<think>\n\n</think>\n\n' if reasoning is string else '' %}"
    r"{% set said = (reasoning + '\n</think>\n\n' if reasoning else '') + content + '<|im_end|>' %}"
    r"{% if reasoning and not think %}{% generation %}{{ opening + said }}{% endgeneration %}"
    r"{% else %}{{ opening }}{% generation %}{{ said }}{% endgeneration %}{% endif %}{{ '\n' }}"
    r"{% else %}{{ content + '<|im_end|>\n' }}{% endif %}"
    r"{% if m.role == 'user' and content.rstrip().endswith('/no_think') %}{% set mode.think = false %}"
    r"{% elif m.role == 'user' and content.rstrip().endswith('/think') %}{% set mode.think = none %}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    r"{% set think = think if think is defined else "
    r"false if enable_thinking is defined and enable_thinking is false else mode.think %}{% if think is not none %}"
    r"{{ '<think>\n' if think else '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}")

PROBES = (
    [{"role": "user", "content": "Hi."}],
    [{"role": "user", "content": " One\n\ntwo "}, {"role": "assistant", "content": "Three."}, {"role": "user", "content": "4"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}])


def chat_template(bos: str = "", system: str | None = None) -> str:
    """Our template: the text of a begin-of-text token, and a system message for conversations without one."""
    head = "{{ " + json.dumps(bos, ensure_ascii=False) + " }}" if bos else ""
    if system is not None:
        message = json.dumps(f"<|im_start|>system\n{system}<|im_end|>\n", ensure_ascii=False)
        head += "{% if not messages or messages[0].role != 'system' %}{{ " + message + " }}{% endif %}"
    return head + BODY


def render(template: str, messages: list[dict], names: dict[str, str], **options) -> str:
    """What a template writes. It runs in a sandbox, since it may come from anyone. names: {"bos_token": text, ...}.
    ValueError."""
    import jinja2  # comes with torch; only needed for templates of other checkpoints
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks text for a mask; here only the text inside it is used."""
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def refuse(message):
        raise jinja2.TemplateError(message)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "some day"}
    environment.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)
    try:
        return environment.from_string(template).render(messages=messages, **names, **options)
    except (jinja2.TemplateError, TypeError, AttributeError, LookupError, ValueError, RecursionError, OverflowError) as e:
        raise ValueError(f"{type(e).__name__}: {e}") from None


def head_of(template: str, names: dict[str, str]) -> tuple[str, str | None]:
    """(text of the begin-of-text token or "", system message or None) at the start of what a template writes. ValueError, which
    names the difference, if the rest is not ChatML."""
    first, mark = render(template, PROBES[0], names, add_generation_prompt=True), "<|im_start|>user\nHi."
    head, found, _ = first.partition(mark)
    bos = names.get("bos_token") or ""
    bos = bos if bos and head.startswith(bos) and bos != "<|im_start|>" else ""
    system = re.fullmatch(r"<\|im_start\|>system\n(.*)<\|im_end\|>\n", head.removeprefix(bos), re.DOTALL)
    own = chat_template(bos, system and system[1])
    for probe in PROBES:
        theirs, ours = (render(t, probe, names, add_generation_prompt=True) for t in (template, own))
        if theirs != ours:
            at = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
            at = max(0, at - 20)
            raise ValueError(f"it writes {theirs[at:at + 60]!r} where ChatML has {ours[at:at + 60]!r}")
    return bos, system and system[1]
