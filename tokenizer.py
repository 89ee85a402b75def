"""Byte-level BPE: trains a tokenizer, encodes with tiktoken, reads and writes Hugging Face folders, formats chats.

    python tokenizer.py train --data stories.txt problems.jsonl --vocab-size 4096 --out runs/tokenizer
    python tokenizer.py show --init runs/tokenizer --text "Zoe has 12 apples."

Training is the algorithm of Sennrich et al. 2016 (arXiv:1508.07909) on bytes, as in GPT-2: start from the 256 bytes and
merge the most frequent pair of neighbours again and again. Pure Python suffices since it works on distinct words and
only touches the words that hold the merged pair. Encoding is left to tiktoken's compiled core.

Ordinary text never becomes a special token: a user who types "<|im_end|>" gets that text. Special tokens enter by their
ids, in `encode_chat`, in `encode_document` (a begin-of-text token, where the checkpoint's own tokenizer puts one before every
text, as Llama 3's does), and where a caller appends `eot`.

What it simplifies:
- Reads byte-level BPE only (the Llama 3, Qwen, SmolLM2 and OLMo 2 kinds); SentencePiece and WordPiece are refused.
- Hugging Face finds every added token inside ordinary text; this file finds those alone that are blank.
- A merge is known by the bytes it makes, not by its pair. For merges that BPE training made, both mean the same.
- One chat format, ChatML, with a checkpoint's own default system message; a template that writes anything else is refused.
  Earlier reasoning stays in the history (Qwen3's template drops it). What is saved is the template of what is written.
- A run of a million blanks overflows tiktoken's regular expressions, except with our pattern, which bounds such runs.
"""
import argparse
import hashlib
import heapq
import itertools
import json
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import regex
import tiktoken
from tqdm import tqdm

from formats import templates
from formats.files import read_json, remove, write_json
from sources.texts import sample_texts
from training import cli

EOT, IM_START, IM_END, THINK, END_THINK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"
SPECIAL_TOKENS = (EOT, IM_START, IM_END, THINK, END_THINK)

# Text is cut into pieces first, and merges never cross a cut. Other than in GPT-2, a digit is always alone but for the
# blank before it (so every digit of a number is one token), a newline is always alone (a line of a solution is a whole
# number of tokens, and a chat header never grows into the content behind it), and a run of blanks is bounded.
DEFAULT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+| ?\p{N}|\n"
                   r"|[^\S\n]{1,999}(?!\S)|[^\S\n]")
# Hugging Face's ByteLevel(use_regex=true), alone and behind Digits. There a digit ends the piece before it, so that
# blanks in front of a digit stay together: "a  5" is "a", "  ", "5".
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|DIGIT| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
LONGEST_BLANK = 900_000     # tiktoken looks ahead with a stack of a million, and panics where a run of blanks overflows it

# tokenizer.json spells each byte as one visible character: itself where Latin-1 shows it, else one from U+0100 onwards.
_visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_order = _visible + [byte for byte in range(256) if byte not in _visible]
CHAR_OF_BYTE = {byte: chr(byte if n < len(_visible) else 256 + n - len(_visible)) for n, byte in enumerate(_order)}
BYTE_OF_CHAR = {ord(char): byte for byte, char in CHAR_OF_BYTE.items()}

def spell(data: bytes) -> str:
    """The bytes in tokenizer.json's alphabet."""
    return "".join(CHAR_OF_BYTE[byte] for byte in data)


def unspell(spelling: str) -> bytes:
    """The inverse of `spell`; ValueError for a character outside the alphabet."""
    return spelling.translate(BYTE_OF_CHAR).encode("latin-1")


def flatten(part: dict | None, key: str) -> list[dict]:
    """The steps of a normalizer or post_processor of a tokenizer.json, in order; a Sequence may be empty or hold others."""
    if not part:
        return []
    return [step for inner in part[key] for step in flatten(inner, key)] if part["type"] == "Sequence" else [part]


def read_prefix(post_processor: dict | None) -> list[int]:
    """The ids that a post_processor puts before a text. (Beside a tokenizer.json, transformers reads no add_bos_token.) What
    one puts behind a text is left to whoever ends a document."""
    prefix = []
    for step in flatten(post_processor, "processors"):
        if step["type"] == "TemplateProcessing":
            before = list(itertools.takewhile(lambda piece: "SpecialToken" in piece, step["single"]))
            prefix = [i for piece in before for i in step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]] + prefix
        elif step["type"] != "ByteLevel":
            raise ValueError(f"cannot read the post_processor {json.dumps(step):.200}; known are ByteLevel, TemplateProcessing")
    return prefix


def token_text(token) -> str:
    """The text of a token in tokenizer_config.json: a string, or an object with its "content"; "" for none."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def cover(pattern: str) -> str:
    """The pattern, and as one piece each stretch that it does not match, so that no text is lost."""
    return rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+"


def merge_pair(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The ids with each occurrence of the pair, from left to right, replaced by the new id."""
    merged, i = [], 0
    while i < len(ids):
        found = ids[i] == pair[0] and i + 1 < len(ids) and ids[i + 1] == pair[1]
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def learn_merges(words: Counter[str], n_merges: int) -> list[tuple[int, int]]:
    """The first n_merges BPE merges of the words (word -> how often), as pairs of ids; merge number i makes id 256 + i.

    The most frequent pair wins; among equals, the smallest. Fewer merges come back when no pair is left.
    """
    word_ids, word_count = [list(word.encode("utf-8", errors="replace")) for word in words], list(words.values())
    pair_count, where = defaultdict(int), defaultdict(set)  # where: pair -> numbers of the words that may hold it
    for n, ids in enumerate(word_ids):
        for pair in itertools.pairwise(ids):
            pair_count[pair] += word_count[n]
            where[pair].add(n)
    heap, merges = sorted((-count, pair) for pair, count in pair_count.items()), []  # a sorted list is a heap
    while heap and len(merges) < n_merges:
        count, best = heapq.heappop(heap)
        if pair_count.get(best) != -count:
            continue  # out of date: each change of a count pushes a new entry and leaves the old one here
        new, change = 256 + len(merges), defaultdict(int)
        for n in where.pop(best):
            ids, merged = word_ids[n], merge_pair(word_ids[n], best, new)
            if len(merged) == len(ids):
                continue  # another merge has already taken the pair from this word
            for pair in itertools.pairwise(ids):
                change[pair] -= word_count[n]
            for pair in itertools.pairwise(merged):
                change[pair] += word_count[n]
                where[pair].add(n)
            word_ids[n] = merged
        for pair, difference in change.items():
            pair_count[pair] += difference
            if difference and pair_count[pair]:
                heapq.heappush(heap, (-pair_count[pair], pair))
        merges.append(best)
    return merges


def read_pattern(pre_tokenizer: dict) -> str:
    """One regular expression that cuts text as this part of a tokenizer.json does; ValueError where there is none."""
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


class Tokenizer:
    """A byte-level BPE vocabulary with its special tokens; made by `train` or `load`.

    special: every added token, dict[str, int]; eot: id that ends a document; stop_ids: set of ids that end completions;
    im_start, im_end, think, end_think: ids or None; prefix: ids that stand before a text (encode_document writes them), bos
    the first of them or None; generation: what generation_config.json says beside the ends.
    """

    def __init__(self, spec: dict, config: dict, template: str | None = None, ends: Iterable[int] = (),
                 generation: dict | None = None):
        """spec, config, template: what tokenizer.json, tokenizer_config.json and chat_template.jinja hold; ends: the
        eos_token_id of config.json and generation_config.json, all of which end a completion."""
        self._spec, self._config, self.generation = spec, config, generation or {}
        model = spec["model"]
        odd = {key: model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")}
        if model["type"] != "BPE" or any(odd.values()):
            raise ValueError(f"cannot read the model ({model['type']}, {odd}); only byte-level BPE is known")
        normalizers = flatten(spec.get("normalizer"), "normalizers")
        self._nfc = bool(normalizers)
        if any(step != {"type": "NFC"} for step in normalizers):
            raise ValueError(f"cannot read the normalizer {str(spec['normalizer']):.200}; only NFC or none is known")
        self._pattern = pattern = read_pattern(spec["pre_tokenizer"] or {"type": "none"})
        self.special = {token["content"]: token["id"] for token in spec["added_tokens"]}
        # An added token cuts ordinary text in Hugging Face. Those of blanks alone do so here too; "" means nothing.
        gaps = [token for token in spec["added_tokens"] if token["content"].isspace()]
        if odd := [t["content"] for t in gaps if any(t.get(flag) for flag in ("single_word", "lstrip", "rstrip"))]:
            raise ValueError(f"cannot read the added token {odd[0]!r}: single_word, lstrip and rstrip are not known")
        longest_first = sorted((re.escape(token["content"]) for token in gaps), key=len, reverse=True)
        self._gaps = re.compile(f"({'|'.join(longest_first)})") if gaps else None
        if odd := [i for i in (*model["vocab"].values(), *self.special.values()) if type(i) is not int or i < 0]:
            raise ValueError(f"cannot read the id {odd[0]!r}: ids are whole numbers from 0")
        # tiktoken merges in the order of ranks. Here that is the order of the list of merges; ids may be in another
        # (SmolLM2 puts its special tokens first), so a table leads from rank to id. Entries that no merge makes have no
        # rank, except in Llama 3 (ignore_merges), where a piece that is in the vocabulary needs no merge.
        id_of = {unspell(spelling): i for spelling, i in model["vocab"].items() if spelling not in self.special}
        merged = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
        order = [bytes([byte]) for byte in range(256)] + [unspell(text) for text in merged if text not in self.special]
        if model.get("ignore_merges"):
            order += sorted(id_of, key=id_of.get)
        ranks = {data: rank for rank, data in enumerate(dict.fromkeys(order))}
        # A byte that the vocabulary lacks gets -1 and is dropped, as in Hugging Face (SmolLM2 lacks 21 rare ones).
        self._id_of_rank = np.array([id_of.get(data, -1) if len(data) == 1 else id_of[data] for data in ranks])
        self._rank_is_id = bool((self._id_of_rank == np.arange(len(ranks))).all())
        self._core = tiktoken.Encoding("nanothink", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._text_bytes = {i: data for data, i in id_of.items()} | {t["id"]: t["content"].encode() for t in gaps}
        self._bytes = self._text_bytes | {i: text.encode() for text, i in self.special.items()}
        self.vocab_size = max(self._bytes) + 1
        self.im_start, self.im_end, self.think, self.end_think = map(self.special.get, SPECIAL_TOKENS[1:])
        eos = config.get("eos_token")
        eos = [self.special.get(token_text(token)) for token in (eos if isinstance(eos, list) else [eos])]
        known = (self.special.get(EOT), self.special.get("<|end_of_text|>"), *eos, *ends)
        self.eot = next((i for i in known if i is not None and i in self._bytes), None)
        if self.eot is None:
            raise ValueError("no token ends a document; name one of added_tokens as eos_token in tokenizer_config.json")
        self.stop_ids = {self.eot, self.im_end, self.special.get("<|eot_id|>"), *eos, *ends} - {None}
        self.prefix = read_prefix(spec.get("post_processor"))
        self.bos = self.prefix[0] if self.prefix else None
        self._read_template(template)
        self._hidden = {token["id"] for token in spec["added_tokens"] if token.get("special")}  # not thinking marks

    def _read_template(self, template: str | None) -> None:
        """Compares the checkpoint's chat template with ChatML (formats/templates.py); notes what else encode_chat must write."""
        if template is None:
            template = self._config.get("chat_template")
            if isinstance(template, list):                # several by name, an older form
                template = next((t["template"] for t in template if t["name"] == "default"), None)
        self._template, self._refusal, bos, system = template, "", "", None
        if self.im_start is None or self.im_end is None:
            self._refusal = f"the tokenizer lacks {IM_START} or {IM_END}; use one of tokenizer.py train, or of Qwen"
            self._head, self._system = [], None
            return
        if template is None:
            bos = "".join(self._bytes[i].decode() for i in self.prefix)
        elif template != templates.chat_template():
            names = {key: token_text(value) for key, value in self._config.items() if key.endswith("_token") and value}
            try:
                bos, system = templates.head_of(template, names)
            except ValueError as error:
                self._refusal = (f"its chat template is not ChatML as it is written here: {error}; remove it from "
                                 "tokenizer_config.json, or chat_template.jinja, to speak ChatML to it all the same")
        self._system, ids = system, {text: i for text, i in self.special.items()}
        self._head = self.prefix if template is None else [ids[bos]] if bos else []
        if not self._refusal:
            self._template = templates.chat_template(bos, system)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern=DEFAULT_PATTERN, progress=False) -> "Tokenizer":
        """Learns a vocabulary of vocab_size: the 256 bytes, then merges, then the special tokens.

        It is smaller when the text runs out of pairs first; the order of the texts does not matter. ValueError when
        vocab_size has no room for bytes and special tokens, or when there is no text.
        """
        n_merges = vocab_size - (smallest := 256 + len(SPECIAL_TOKENS))
        if n_merges < 0:
            raise ValueError(f"a vocabulary of {vocab_size} is too small; ask for at least {smallest}")
        splitter, words = regex.compile(cover(pattern)), Counter()
        for text in tqdm(texts, desc="reading", unit=" texts", leave=False, disable=not progress):
            words.update(match.group() for match in splitter.finditer(text))
        if not words:
            raise ValueError("there is no text to learn from: give at least one text that is not empty")
        made, spelled_merges = [bytes([byte]) for byte in range(256)], []
        for left, right in learn_merges(words, n_merges):
            made.append(made[left] + made[right])
            spelled_merges.append(f"{spell(made[left])} {spell(made[right])}")
        added = [{"id": i, "content": text, "special": text not in (THINK, END_THINK), "normalized": False,
                  "single_word": False, "lstrip": False, "rstrip": False}
                 for i, text in enumerate(SPECIAL_TOKENS, len(made))]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        spec = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "ignore_merges": False, "byte_fallback": False, "merges": spelled_merges,
                      "vocab": {spell(data): i for i, data in enumerate(made)}}}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOT, "pad_token": EOT,
                  "clean_up_tokenization_spaces": False, "chat_template": templates.chat_template()}
        return cls(spec, config)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads a Hugging Face folder, ours or not; FileNotFoundError, or ValueError that names the file and part."""
        folder = Path(folder)
        path, template = folder / "tokenizer.json", folder / "chat_template.jinja"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no tokenizer.json; give a folder that `tokenizer.py train` wrote")
        config, older, generation, model = (read_json(folder / name) if (folder / name).is_file() else {} for name in (
            "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"))
        config = {name: token_text(token) for name, token in older.items() if name.endswith("_token")} | config
        ends = []
        for name, found in (("generation_config.json", generation), ("config.json", model)):
            these = found.get("eos_token_id")
            these = these if isinstance(these, list) else [] if these is None else [these]
            if any(type(i) is not int for i in these):
                raise ValueError(f"{folder / name}: eos_token_id={found['eos_token_id']!r} must be an id, or a list of ids")
            ends += these
        spec = read_json(path)
        try:
            text = template.read_text(encoding="utf-8") if template.is_file() else None
            return cls(spec, config, text, ends, generation)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else f"not the layout of a tokenizer.json, {error!r}"
            raise ValueError(f"{path}: {reason}") from error

    # Files of an older tokenizer that transformers would read in place of, or together with, those of a save.
    STALE = ("chat_template.json", "chat_template.jinja", "additional_chat_templates/*", "special_tokens_map.json",
             "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load` and transformers.AutoTokenizer read; each appears whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in self._config.items() if key != "chat_template"}
        if self._template is not None:
            config["chat_template"] = self._template
        write_json(Path(folder) / "tokenizer.json", self._spec)
        write_json(Path(folder) / "tokenizer_config.json", config)
        remove(folder, *self.STALE)

    def generation_config(self) -> dict:
        """What generation_config.json says, so that transformers stops where the sampler does."""
        return self.generation | {"bos_token_id": self.bos, "eos_token_id": sorted(self.stop_ids), "pad_token_id": self.eot}

    def absent(self, rows: int) -> tuple[tuple[int, int], ...]:
        """The ids below `rows`, of an embedding say, that no token has, as ranges (first, last + 1): holes, and what is beyond
        the tokenizer."""
        edges = [-1, *sorted(i for i in self._bytes if i < rows), rows]
        return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b - a > 1)

    def __len__(self) -> int:
        """The highest id plus one: the rows that an embedding needs."""
        return self.vocab_size

    def fingerprint(self) -> str:
        """A hash of everything that decides how text becomes ids and ids become text; chat templates and names do not count."""
        parts = (self._pattern, self._nfc, self._id_of_rank.tolist(), self.eot, self.prefix, sorted(self.special.items()),
                 sorted((i, data.hex()) for i, data in self._text_bytes.items()))
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text; never a special token, whatever the text spells."""
        return self.encode_batch([text])[0]

    def encode_document(self, text: str) -> list[int]:
        """The ids of a text that a model reads from its beginning: the prefix of the checkpoint's own tokenizer, if it has one,
        then the text. A prompt or a document begins so, exactly once; a caller that ends a document appends `eot`."""
        return self.prefix + self.encode(text)

    def encode_batch(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """`encode` for many texts, on that many threads."""
        if self._nfc:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        if self._gaps is None:
            return self._encode_pieces(texts, threads)
        cut = [self._gaps.split(text) for text in texts]                      # every second part is a blank added token
        ids = iter(self._encode_pieces([part for parts in cut for part in parts[::2]], threads))
        return [[i for n, part in enumerate(parts) for i in ([self.special[part]] if n % 2 else next(ids))] for parts in cut]

    def _encode_pieces(self, texts: list[str], threads: int) -> list[list[int]]:
        """The ids of texts without added tokens."""
        if any(len(text) > LONGEST_BLANK and self._blank(text) > LONGEST_BLANK for text in texts):
            raise ValueError(f"a text holds more than {LONGEST_BLANK:,} blanks in a row, more than can be cut "
                             "into words; take them out")
        try:
            if threads > 1:
                rows = self._core.encode_ordinary_batch(texts, num_threads=threads)
            else:
                rows = [self._core.encode_ordinary(text) for text in texts]
        except BaseException as e:
            if type(e).__name__ != "PanicException":      # tiktoken's pattern matching ran out of its stack: no Exception
                raise
            raise ValueError(f"a text of {max(map(len, texts)):,} characters cannot be cut into words ({e}); break it into "
                             "lines") from None
        if not self._rank_is_id:
            rows = [[i for i in self._id_of_rank[row].tolist() if i >= 0] for row in rows]
        return rows

    @staticmethod
    def _blank(text: str) -> int:
        """The length of the longest run of blanks, if it is above a thousand, else 0."""
        return max((len(run.group()) for run in regex.finditer(r"\s{1000,}", text)), default=0)

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes of the ids; skip_special leaves out special tokens but thinking marks. ValueError if unknown."""
        ids = [int(i) for i in ids]
        try:
            return b"".join(self._bytes[i] for i in ids if not (skip_special and i in self._hidden))
        except KeyError as error:
            raise ValueError(f"no token has the id {error}; is this the tokenizer of the model that made it?") from None

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 (a character cut short) become U+FFFD."""
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of text that one id stands for: none for a special token, which is no text, or an unused id."""
        return self._text_bytes.get(int(token), b"")

    def encode_chat(self, messages: list[dict], add_generation_prompt: bool = False,
                    think: bool | None = None) -> tuple[list[int], list[float]]:
        """A conversation in ChatML: its ids and its loss mask, two lists of one length.

        messages: {"role", "content"}, and for an assistant maybe "reasoning" ("" is the empty block of no-think mode). A content
        may be a list of {"type": "text", "text": ...}. First comes what the checkpoint's own template puts there: a
        begin-of-text token, a system message where the conversation has none.
        The mask is 1.0 on what an assistant produces: <think>, reasoning, </think>, content and <|im_end|>. It is 0.0
        on all else, also on an empty block: whoever trains on that teaches the model not to think (Qwen3).
        think: what the generation prompt says. None leaves thinking to the model, True opens the block, False writes
        the empty one. With True, opening marks in messages are masked too, as the prompt always gives them.
        Text is cut only at special tokens and where a generation starts, so a prompt's ids are a prefix of the whole
        conversation's. ValueError for a tokenizer without ChatML's tokens and for a malformed message.
        """
        if self._refusal:
            raise ValueError(self._refusal)
        opening = THINK if self.think is None else self.think
        closing = END_THINK if self.end_think is None else self.end_think
        empty_block = (opening, "\n\n", closing, "\n\n")
        ids, mask = list(self._head), [0.0] * len(self._head)

        def put(weight: float, *parts: int | str) -> None:
            """Adds special tokens (int) and ordinary text (str; neighbours are encoded as one text)."""
            for is_text, group in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
                ids.extend(self.encode("".join(group)) if is_text else group)  # noqa: B031 (used once)
            mask.extend([weight] * (len(ids) - len(mask)))

        if self._system is not None and (not messages or messages[0].get("role") != "system"):
            put(0.0, self.im_start, f"system\n{self._system}", self.im_end, "\n")
        for number, message in enumerate(messages):
            role, content, reasoning = (message.get(key) for key in ("role", "content", "reasoning"))
            content = plain_content(content)
            if not (isinstance(role, str) and isinstance(content, str) and isinstance(reasoning, str | None)):
                raise ValueError(f"message {number} must have 'role' and 'content', both text; got {str(message):.100}")
            if role != "assistant":
                put(0.0, self.im_start, f"{role}\n{content}", self.im_end, "\n")
                continue
            put(0.0, self.im_start, "assistant\n")
            if reasoning:
                put(0.0 if think else 1.0, opening, "\n")
                put(1.0, f"{reasoning}\n", closing, f"\n\n{content}", self.im_end)
            else:
                put(0.0, *(() if reasoning is None else empty_block))
                put(1.0, content, self.im_end)
            put(0.0, "\n")
        if add_generation_prompt:
            put(0.0, self.im_start, "assistant\n")
            put(0.0, *{None: (), True: (opening, "\n"), False: empty_block}[think])
        return ids, mask

    def chat_prompt(self, messages: list[dict], think: bool | None = None) -> list[int]:
        """The ids of a conversation up to where the model replies; with think=None the user's flags decide."""
        return self.encode_chat(messages, True, thinking_mode(messages) if think is None else think)[0]

    def thinking_in(self, ids: list[int]) -> bool | None:
        """What the end of a prompt says on thinking, in the words of encode_chat's `think`: True where it leaves a
        block open, False where it has closed one, None where the turn that the model is to write has no mark."""
        start = max((at for at, i in enumerate(ids) if i == self.im_start), default=0)
        if self.think is not None and self.end_think is not None:
            marks = [i == self.think for i in ids[start:] if i in (self.think, self.end_think)]
            return marks[-1] if marks else None
        turn = self.decode(ids[start:])
        opened, closed = turn.rfind(THINK), turn.rfind(END_THINK)
        return None if opened == closed else opened > closed

    def decode_reply(self, prompt: list[int], tokens: list[int]) -> str:
        """A completion's text with thinking marks and no other special token; <think> also where the prompt has it."""
        known = [i for i in tokens if int(i) in self._bytes]                  # an id that no token has is no text
        return (THINK if self.thinking_in(prompt) else "") + self.decode(known, skip_special=True)


def plain_content(content):
    """A message's content as text: a list of {"type": "text", "text": ...} joined; anything else as it is."""
    def is_text(part):
        return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    if isinstance(content, list) and all(map(is_text, content)):
        return "".join(part["text"] for part in content)
    return content


def thinking_mode(messages: list[dict]) -> bool | None:
    """Qwen3's soft switch, for encode_chat's `think`: the last user turn that ends in a flag decides. After "/no_think"
    the prompt gives the empty block (False), which a model is never trained to write; after "/think", or with no flag,
    the model opens a block itself (None)."""
    turns = [str(plain_content(message.get("content"))).rstrip() for message in messages if message.get("role") == "user"]
    flagged = [turn for turn in turns if turn.endswith(("/no_think", "/think"))]
    return False if flagged and flagged[-1].endswith("/no_think") else None


def split_thinking(text: str) -> tuple[str | None, str]:
    """(reasoning, answer) of a decoded completion; reasoning is None where there is no block, "" where it is empty.

    A block that never closes is all reasoning, with answer "". If the prompt opened the block, the completion lacks the
    opening mark: put <think> before it, or an unfinished block would read as an answer.
    """
    before, closed, after = text.partition(END_THINK)
    if not closed and not before.lstrip().startswith(THINK):
        return None, text
    return before.lstrip().removeprefix(THINK).strip("\n"), after.lstrip("\n")


def train_command(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    if (Path(args.out) / "tokenizer.json").exists() and not args.overwrite:
        raise ValueError(f"{args.out} already has a tokenizer.json; give another --out, or --overwrite")
    tokenizer = Tokenizer.train(itertools.chain.from_iterable(map(sample_texts, args.data)), args.vocab_size,
                                progress=True)
    tokenizer.save(args.out)
    n_bytes = n_tokens = 0
    for text in itertools.chain.from_iterable(map(sample_texts, args.data)):
        n_bytes, n_tokens = n_bytes + len(text.encode("utf-8", "replace")), n_tokens + len(tokenizer.encode(text))
    cli.finish({"vocab_size": len(tokenizer), "bytes": n_bytes, "tokens": n_tokens,
                "bytes_per_token": round(n_bytes / n_tokens, 3), "seconds": round(time.perf_counter() - start, 2)})


def show_command(args: argparse.Namespace) -> None:
    tokenizer = Tokenizer.load(args.init)
    ids = tokenizer.encode(args.text)
    for i in ids:
        text = tokenizer.decode([i])
        print(f"{i:>7}  {tokenizer.token_bytes(i) if chr(0xFFFD) in text else text!r}")  # bytes: part of a character
    cli.finish({"tokens": len(ids), "bytes": len(args.text.encode())})


def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    train = commands.add_parser("train", text="Learn a vocabulary from files.")
    train.add_argument("--data", required=True, nargs="+", metavar="SPEC", help="files of text, or world:...")
    train.add_argument("--vocab-size", type=cli.count, default=4096, help="tokens, with bytes and specials")
    train.add_argument("--out", type=cli.out_folder, required=True, metavar="FOLDER", help="folder to write")
    train.add_argument("--overwrite", action="store_true", help="replace the tokenizer in --out")
    show = commands.add_parser("show", text="Print the tokens of a text.")
    show.add_argument("--init", required=True, metavar="FOLDER", help="folder with a tokenizer.json")
    show.add_argument("--text", required=True, help="the text to cut")
    args = parser.parse_args()
    with cli.bad_input():
        train_command(args) if args.command == "train" else show_command(args)


if __name__ == "__main__":
    main()
