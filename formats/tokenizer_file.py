"""Reads and writes the tokenizer files of a Hugging Face folder: byte-level BPE, the Llama 3, Qwen, SmolLM2 and OLMo 2 kinds.

    files = TokenizerFiles.read("smollm2/")       what the files hold
    vocabulary = read_vocabulary(files.spec)      how text becomes ids, as tokenizer.json says
    write_files("runs/base", files.spec, files.config, files.template)     the same, written again

What it simplifies:
- SentencePiece and WordPiece are refused.
- Hugging Face finds every added token inside ordinary text; here only added tokens of pure whitespace are found.
- A merge is identified by the bytes that it makes, not by its pair. For merges made by BPE training both mean the same.
"""

import itertools
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from formats.files import read_json, remove, write_json

# Hugging Face's ByteLevel(use_regex=true), alone and after Digits. With Digits a digit ends the piece before it, so spaces
# before a digit stay together: "a  5" becomes "a", "  ", "5".
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|DIGIT| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"

# tokenizer.json writes each byte as one visible character: the Latin-1 character if it is visible, else one from U+0100 on.
_visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_order = _visible + [byte for byte in range(256) if byte not in _visible]
CHAR_OF_BYTE = {byte: chr(byte if n < len(_visible) else 256 + n - len(_visible)) for n, byte in enumerate(_order)}
BYTE_OF_CHAR = {ord(char): byte for byte, char in CHAR_OF_BYTE.items()}


def spell(data: bytes) -> str:
    """The bytes, written in the alphabet of tokenizer.json."""
    return "".join(CHAR_OF_BYTE[byte] for byte in data)


def unspell(spelling: str) -> bytes:
    """The inverse of `spell`; ValueError for a character outside the alphabet."""
    return spelling.translate(BYTE_OF_CHAR).encode("latin-1")


# the files

# Files of an older tokenizer that transformers would read in place of the new files, or together with them.
STALE = ("chat_template.json", "chat_template.jinja", "additional_chat_templates/*", "special_tokens_map.json",
         "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")


@dataclass
class TokenizerFiles:
    """What the files of a folder say about its tokenizer."""
    spec: dict                       # tokenizer.json
    config: dict                     # tokenizer_config.json
    template: str | None = None      # of chat_template.jinja; else tokenizer_config.json may have one
    ends: list[int] = field(default_factory=list)     # ids that end a completion: eos_token_id of (generation_)config.json
    generation: dict = field(default_factory=dict)    # generation_config.json

    @classmethod
    def read(cls, folder: str | Path) -> "TokenizerFiles":
        """FileNotFoundError without a tokenizer.json; ValueError that names the file and what is wrong with it."""
        folder = Path(folder)
        template = folder / "chat_template.jinja"
        if not (folder / "tokenizer.json").is_file():
            raise FileNotFoundError(f"{folder} has no tokenizer.json; give a folder that `tokenizer.py train` wrote")
        config, older, generation, model = (read_json(folder / name) if (folder / name).is_file() else {} for name in (
            "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"))
        config = {name: token_text(token) for name, token in older.items() if name.endswith("_token")} | config
        ends = []
        for name, found in (("generation_config.json", generation), ("config.json", model)):
            these = found.get("eos_token_id")
            these = these if isinstance(these, list) else [] if these is None else [these]
            if any(type(i) is not int or i < 0 for i in these):
                raise ValueError(f"{folder / name}: eos_token_id={found['eos_token_id']!r} must be an id, or a list of ids")
            ends += these
        spec = read_json(folder / "tokenizer.json")
        try:
            text = template.read_text(encoding="utf-8") if template.is_file() else None
        except UnicodeDecodeError as error:
            raise ValueError(f"{template}: not UTF-8 text ({error}); fetch or write it again") from None
        return cls(spec, config, text, ends, generation)

    def chat_template(self) -> str | None:
        """The chat template, from either place."""
        template = self.config.get("chat_template") if self.template is None else self.template
        if isinstance(template, list):                    # an older form: a list of named templates
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            if "default" not in named:
                raise ValueError(f"tokenizer_config.json: chat_template has no template with the name default (found: "
                                 f"{', '.join(map(str, named)) or 'none'}); name one so, or take chat_template out")
            if others := [str(name) for name in named if name != "default"]:
                print(f"tokenizer_config.json: of the chat templates only the default is used and saved, not {', '.join(others)}",
                      file=sys.stderr)
            template = named["default"]
        if not isinstance(template, str | None):
            raise ValueError(f"tokenizer_config.json: chat_template must be text, not {str(template)[:60]}; take it out, or "
                             "fetch the file again")
        return template

    def token_names(self) -> dict[str, str]:
        """{"bos_token": text, ...}: the tokens that tokenizer_config.json names."""
        return {key: token_text(value) for key, value in self.config.items() if key.endswith("_token") and value}


# Fields of generation_config.json that change what transformers draws and that nothing here reads, with the value without effect.
# (Temperature, top-k and top-p are said by flags.)
NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_p": 0.0, "typical_p": 1.0, "min_length": 0,
           "epsilon_cutoff": 0.0, "eta_cutoff": 0.0} | dict.fromkeys(
    ("min_new_tokens", "penalty_alpha", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "stop_strings",
     "forced_bos_token_id", "forced_eos_token_id", "sequence_bias", "exponential_decay_length_penalty"))


def unused_settings(generation: dict) -> list[str]:
    """What a generation_config.json asks for and the sampler does not do, as "repetition_penalty=1.1"."""
    return [f"{key}={generation[key]}" for key, neutral in NEUTRAL.items() if generation.get(key) not in (None, [], neutral)]


def write_files(folder: str | Path, spec: dict, config: dict, template: str | None) -> None:
    """Writes tokenizer.json and tokenizer_config.json with this chat template, each one atomically."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in config.items() if key != "chat_template"}
    if template is not None:
        config["chat_template"] = template
    write_json(Path(folder) / "tokenizer.json", spec)
    write_json(Path(folder) / "tokenizer_config.json", config)
    remove(folder, *STALE)


def token_text(token: Any) -> str:
    """The text of a token in tokenizer_config.json: a string, or an object with its "content"; "" for none."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


# the parts of tokenizer.json

def flatten(part: dict | None, key: str) -> list[dict]:
    """The steps of a normalizer or post_processor of a tokenizer.json, in order; a Sequence may be empty or hold others."""
    if not part:
        return []
    return [step for inner in part[key] for step in flatten(inner, key)] if part["type"] == "Sequence" else [part]


def read_prefix(post_processor: dict | None) -> list[int]:
    """The ids that a post_processor puts before a text. Ids after a text are not read: the caller ends a document.
    (If there is a tokenizer.json, transformers ignores add_bos_token.)"""
    prefix = []
    for step in flatten(post_processor, "processors"):
        if step["type"] == "TemplateProcessing":
            before = list(itertools.takewhile(lambda piece: "SpecialToken" in piece, step["single"]))
            prefix = [i for piece in before for i in step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]] + prefix
        elif step["type"] != "ByteLevel":
            raise ValueError(f"cannot read the post_processor {json.dumps(step):.200}; known are ByteLevel, TemplateProcessing")
    return prefix


def cover(pattern: str) -> str:
    """The pattern, extended so that each part of a text which it does not match becomes one piece. No text is lost."""
    return rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+"


def read_pattern(pre_tokenizer: dict) -> str:
    """One regular expression that cuts text as this part of a tokenizer.json does; ValueError if there is none."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps[-1].get("add_prefix_space"):
        match steps:
            case [{"type": "ByteLevel", "use_regex": False}]:
                return r"[\s\S]+"
            case [{"type": "ByteLevel"}]:
                return GPT2_PATTERN
            case [{"type": "Digits", "individual_digits": alone}, {"type": "ByteLevel", "use_regex": True}]:
                return DIGITS_PATTERN.replace("DIGIT", r"\p{N}" if alone else r"\p{N}+")
            case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": how, "invert": invert},
                  {"type": "ByteLevel", "use_regex": False}] if how == "Isolated" or (how == "Removed" and invert):
                return cover(pattern) if how == "Isolated" else pattern  # Removed (OLMo 2) drops what does not match
    raise ValueError(f"cannot read the pre_tokenizer {json.dumps(pre_tokenizer):.200}; known are ByteLevel, "
                     "Digits + ByteLevel and Split(Regex) + ByteLevel, without add_prefix_space")


@dataclass
class Vocabulary:
    """How text becomes ids.

    tiktoken merges in the order of ranks. A rank is the position in the list of merges. Ids may have another order (SmolLM2 puts
    its special tokens first), so a table maps ranks to ids. An entry that no merge makes has no rank. The exception is Llama 3
    (ignore_merges): there a piece that is in the vocabulary needs no merge."""
    pattern: str                     # regular expression that cuts text into pieces
    nfc: bool                        # whether text is first converted to Unicode's form NFC
    ranks: dict[bytes, int]
    id_of_rank: np.ndarray           # -1: a byte that is not in the vocabulary; it is dropped, as in Hugging Face (SmolLM2)
    text_bytes: dict[int, bytes]     # of the ids of ordinary text
    special: dict[str, int]          # every added token
    whitespace: re.Pattern | None    # the added tokens of pure whitespace: only these are found in ordinary text
    hidden: set[int]                 # ids of added tokens that a reader does not see (thinking marks are seen)
    prefix: list[int]                # ids at the start of a text


def read_vocabulary(spec: dict) -> Vocabulary:
    """The vocabulary of a tokenizer.json. ValueError for what is not byte-level BPE, or not supported here."""
    model = spec["model"]
    odd = {key: model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")}
    if model["type"] != "BPE" or any(odd.values()):
        raise ValueError(f"cannot read the model ({model['type']}, {odd}); only byte-level BPE is known")
    normalizers = flatten(spec.get("normalizer"), "normalizers")
    if any(step != {"type": "NFC"} for step in normalizers):
        raise ValueError(f"cannot read the normalizer {str(spec['normalizer']):.200}; only NFC or none is known")
    pattern = read_pattern(spec["pre_tokenizer"] or {"type": "none"})
    special = {token["content"]: token["id"] for token in spec["added_tokens"]}
    whitespace = [token for token in spec["added_tokens"] if token["content"].isspace()]
    if odd := [t["content"] for t in whitespace if any(t.get(flag) for flag in ("single_word", "lstrip", "rstrip"))]:
        raise ValueError(f"cannot read the added token {odd[0]!r}: single_word, lstrip and rstrip are not known")
    longest_first = sorted((re.escape(token["content"]) for token in whitespace), key=len, reverse=True)
    if odd := [i for i in (*model["vocab"].values(), *special.values()) if type(i) is not int or i < 0]:
        raise ValueError(f"cannot read the id {odd[0]!r}: ids are whole numbers from 0")
    id_of = {unspell(spelling): i for spelling, i in model["vocab"].items() if spelling not in special}
    merged = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    order = [bytes([byte]) for byte in range(256)] + [unspell(text) for text in merged if text not in special]
    if model.get("ignore_merges"):
        order += sorted(id_of, key=id_of.get)
    ranks = {data: rank for rank, data in enumerate(dict.fromkeys(order))}
    return Vocabulary(
        pattern, bool(normalizers), ranks,
        id_of_rank=np.array([id_of.get(data, -1) if len(data) == 1 else id_of[data] for data in ranks]),
        text_bytes={i: data for data, i in id_of.items()} | {t["id"]: t["content"].encode() for t in whitespace},
        special=special, whitespace=re.compile(f"({'|'.join(longest_first)})") if whitespace else None,
        hidden={token["id"] for token in spec["added_tokens"] if token.get("special")},
        prefix=read_prefix(spec.get("post_processor")))


def new_spec(tokens: list[bytes], merges: list[tuple[int, int]], special: dict[str, bool], pattern: str) -> dict:
    """A tokenizer.json. tokens: the 256 bytes, then the result of each merge. special: added tokens, which get the next ids, and
    whether each one is hidden from a reader."""
    added = [{"id": i, "content": text, "special": hidden, "normalized": False, "single_word": False, "lstrip": False,
              "rstrip": False} for i, (text, hidden) in enumerate(special.items(), len(tokens))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "ignore_merges": False, "byte_fallback": False,
                  "merges": [f"{spell(tokens[left])} {spell(tokens[right])}" for left, right in merges],
                  "vocab": {spell(data): i for i, data in enumerate(tokens)}}}
