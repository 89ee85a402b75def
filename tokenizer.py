"""Byte-level BPE: trains a tokenizer, encodes with tiktoken, decodes.

    python tokenizer.py train --data stories.txt problems.jsonl --vocab-size 4096 --out runs/tokenizer
    python tokenizer.py show --init runs/tokenizer --text "Zoe has 12 apples."

Training is the algorithm of Sennrich et al. 2016 (arXiv:1508.07909) on bytes, as in GPT-2: start from the 256 bytes and merge the
most frequent pair of neighbours again and again. Pure Python is fast enough: it works on distinct words, and a merge only touches
the words with the merged pair. Encoding is done by tiktoken's compiled core.

Ordinary text never becomes a special token: if a user types "<|im_end|>", it stays text. Special tokens are added by their ids:

- in `encode_chat`;
- in `encode_document`: a begin-of-text token, if the checkpoint's tokenizer puts one before every text (as Llama 3's does);
- where a caller appends `eot`.

Its files are those of Hugging Face (formats/tokenizer_file.py), its chat format is ChatML (formats/chat.py).

What it simplifies: about a million whitespace characters in a row are too many for tiktoken's regular expressions, and are
refused. (Our own pattern limits the length of a piece, so it does not have this problem.) For the formats see their files.
"""
import argparse
import hashlib
import heapq
import itertools
import json
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import regex
import tiktoken
from tqdm import tqdm

from formats import templates
from formats.chat import END_THINK, IM_END, IM_START, THINK, ChatFormat, thinking_mode
from formats.tokenizer_file import TokenizerFiles, cover, new_spec, read_vocabulary, token_text, write_files
from training import cli

EOT = "<|endoftext|>"
SPECIAL_TOKENS = (EOT, IM_START, IM_END, THINK, END_THINK)

# Text is first cut into pieces, and merges never cross a cut. Differences to GPT-2:
# - A piece has at most one digit, with the space before it. So every digit of a number is one token.
# - A newline is a piece of its own. So a token never spans two lines, or a chat header and the content after it.
# - The number of whitespace characters in a piece is limited.
DEFAULT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+| ?\p{N}|\n"
                   r"|[^\S\n]{1,999}(?!\S)|[^\S\n]")
LONGEST_WHITESPACE = 900_000   # whitespace characters in a row: at about a million tiktoken runs out of stack and panics


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

    The most frequent pair is merged; among equally frequent ones, the smallest. There are fewer merges if no pair is left.
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
            continue  # out of date: each change of a count pushes a new entry, and the old one stays in the heap
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


class Tokenizer:
    """A byte-level BPE vocabulary with its special tokens; made by `train` or `load`.

    special                              every added token, dict[str, int]
    eot                                  id that ends a document
    stop_ids                             set of ids that end a completion
    im_start, im_end, think, end_think   ids or None
    prefix                               ids at the start of every text (encode_document writes them)
    bos                                  the first of them, or None
    generation                           the other fields of generation_config.json
    """

    def __init__(self, spec: dict, config: dict, template: str | None = None, ends: Iterable[int] = (),
                 generation: dict | None = None):
        """The fields of formats.tokenizer_file.TokenizerFiles. ValueError for what cannot be read."""
        files = TokenizerFiles(spec, config, template, list(ends), generation or {})
        self._spec, self._config, self.generation = spec, config, files.generation
        self._vocabulary = vocabulary = read_vocabulary(spec)
        self.special, self.prefix, self._id_of_rank = vocabulary.special, vocabulary.prefix, vocabulary.id_of_rank
        self.bos = self.prefix[0] if self.prefix else None
        self._rank_is_id = bool((self._id_of_rank == np.arange(len(self._id_of_rank))).all())
        self._core = tiktoken.Encoding("nanothink", pat_str=vocabulary.pattern, mergeable_ranks=vocabulary.ranks,
                                       special_tokens={})
        self._any_length = vocabulary.pattern == cover(DEFAULT_PATTERN)       # of whitespace: its pieces are short
        self._text_bytes = vocabulary.text_bytes
        self._bytes = self._text_bytes | {i: text.encode() for text, i in self.special.items()}
        self.vocab_size = max(self._bytes) + 1
        self.im_start, self.im_end, self.think, self.end_think = map(self.special.get, SPECIAL_TOKENS[1:])
        eos = config.get("eos_token")
        eos = [self.special.get(token_text(token)) for token in (eos if isinstance(eos, list) else [eos])]
        known = (self.special.get(EOT), self.special.get("<|end_of_text|>"), *eos, *files.ends)
        self.eot = next((i for i in known if i is not None and i in self._bytes), None)
        if self.eot is None:
            raise ValueError("no token ends a document; name one of added_tokens as eos_token in tokenizer_config.json")
        self.stop_ids = {self.eot, self.im_end, self.special.get("<|eot_id|>"), *eos, *files.ends} & self._bytes.keys()
        self.chat = ChatFormat(self, files.chat_template(), files.token_names())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern: str = DEFAULT_PATTERN, progress: bool = False) -> "Tokenizer":
        """Learns a vocabulary of vocab_size: the 256 bytes, then merges, then the special tokens.

        The vocabulary is smaller if the text has too few pairs. The order of the texts does not matter. ValueError if vocab_size
        is too small for bytes and special tokens, or if there is no text.
        """
        n_merges = vocab_size - (smallest := 256 + len(SPECIAL_TOKENS))
        if n_merges < 0:
            raise ValueError(f"a vocabulary of {vocab_size} is too small; use at least {smallest}")
        splitter, words = regex.compile(cover(pattern)), Counter()
        for text in tqdm(texts, desc="reading", unit=" texts", leave=False, disable=not progress):
            words.update(match.group() for match in splitter.finditer(text))
        if not words:
            raise ValueError("there is no text to learn from: give at least one text that is not empty")
        tokens, merges = [bytes([byte]) for byte in range(256)], learn_merges(words, n_merges)
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])
        special = {text: text not in (THINK, END_THINK) for text in SPECIAL_TOKENS}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOT, "pad_token": EOT,
                  "clean_up_tokenization_spaces": False, "chat_template": templates.chat_template()}
        return cls(new_spec(tokens, merges, special, pattern), config)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads the tokenizer of a Hugging Face folder, ours or another. FileNotFoundError, or ValueError that names the part."""
        files = TokenizerFiles.read(folder)
        try:
            return cls(files.spec, files.config, files.template, files.ends, files.generation)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else f"not the layout of a tokenizer.json, {error!r}"
            raise ValueError(f"{Path(folder) / 'tokenizer.json'}: {reason}") from error

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load` and transformers.AutoTokenizer read, each one atomically."""
        write_files(folder, self._spec, self._config, self.chat.template)

    def generation_config(self) -> dict:
        """The content of generation_config.json, so that transformers stops at the same tokens as the sampler."""
        return self.generation | {"bos_token_id": self.bos, "eos_token_id": sorted(self.stop_ids), "pad_token_id": self.eot}

    def unused_ids(self, rows: int) -> tuple[tuple[int, int], ...]:
        """The ids below `rows` (the rows of an embedding) that no token has, as ranges (first, last + 1)."""
        edges = [-1, *sorted(i for i in self._bytes if i < rows), rows]
        return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b - a > 1)

    def __len__(self) -> int:
        """The highest id plus one: the rows that an embedding needs."""
        return self.vocab_size

    def fingerprint(self) -> str:
        """A hash of everything that decides how text becomes ids and ids become text, without chat templates and names."""
        parts = (self._vocabulary.pattern, self._vocabulary.nfc, self._id_of_rank.tolist(), self.eot, self.prefix,
                 sorted(self.special.items()), sorted((i, data.hex()) for i, data in self._text_bytes.items()))
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text; never a special token, even if the text looks like one."""
        return self.encode_batch([text])[0]

    def encode_document(self, text: str) -> list[int]:
        """The ids of a document or a prompt: `prefix` (if the checkpoint's tokenizer has one), then the text. At the end of a
        document the caller appends `eot`."""
        return self.prefix + self.encode(text)

    def encode_batch(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """`encode` for many texts, on that many threads."""
        if self._vocabulary.nfc:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        whitespace = self._vocabulary.whitespace
        if whitespace is None:
            return self._encode_pieces(texts, threads)
        cut = [whitespace.split(text) for text in texts]                  # every second part is an added token of whitespace
        ids = iter(self._encode_pieces([part for parts in cut for part in parts[::2]], threads))
        return [[i for n, part in enumerate(parts) for i in ([self.special[part]] if n % 2 else next(ids))] for parts in cut]

    def _encode_pieces(self, texts: list[str], threads: int) -> list[list[int]]:
        """The ids of texts without added tokens."""
        if not self._any_length and any(len(text) > LONGEST_WHITESPACE and self._longest_whitespace(text) > LONGEST_WHITESPACE
                                        for text in texts):
            raise ValueError(f"a text has more than {LONGEST_WHITESPACE:,} whitespace characters in a row, which is too many to "
                             "cut it into words; remove them")
        try:
            if threads > 1:
                rows = self._core.encode_ordinary_batch(texts, num_threads=threads)
            else:
                rows = [self._core.encode_ordinary(text) for text in texts]
        except BaseException as e:
            if type(e).__name__ != "PanicException":      # tiktoken's regular expressions ran out of stack; this is no Exception
                raise
            raise ValueError(f"a text of {max(map(len, texts)):,} characters cannot be cut into words ({e}); break it into "
                             "lines") from None
        if not self._rank_is_id:
            rows = [[i for i in self._id_of_rank[row].tolist() if i >= 0] for row in rows]
        return rows

    @staticmethod
    def _longest_whitespace(text: str) -> int:
        """The largest number of whitespace characters in a row if it is at least a thousand, else 0."""
        return max((len(run.group()) for run in regex.finditer(r"\s{1000,}", text)), default=0)

    def same_ids(self, other: "Tokenizer") -> bool:
        """Whether every id means the same in both."""
        return (len(self) == len(other) and self.special == other.special
                and all(self.token_bytes(i) == other.token_bytes(i) for i in range(len(self))))

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes of the ids. skip_special leaves out special tokens, but not thinking marks. ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        try:
            return b"".join(self._bytes[i] for i in ids if not (skip_special and i in self._vocabulary.hidden))
        except KeyError as error:
            raise ValueError(f"no token has the id {error}; is this the tokenizer of the model that made it?") from None

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 (a part of a character) become U+FFFD."""
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of text of one id; empty for a special token or an unused id."""
        return self._text_bytes.get(int(token), b"")

    def encode_chat(self, messages: list[dict], add_generation_prompt: bool = False,
                    think: bool | None = None) -> tuple[list[int], list[float]]:
        """A conversation in ChatML: its ids and its loss mask, two lists of the same length.

        - messages: {"role", "content"}. Those of an assistant may have "reasoning", which may also be called "reasoning_content"
          ("": the empty block of no-think mode). A content may be a list of {"type": "text", "text": ...}. The last one may be
          "unfinished": true, cut off in the middle; then neither </think> (if it has no content yet) nor <|im_end|> closes it.
          Other keys are refused if they have a value.
        - think: how the generation prompt ends. None: the model decides; True: an open <think>; False: an empty think block.
        - mask: 1.0 on what an assistant writes (<think>, reasoning, </think>, content, <|im_end|>), else 0.0. An empty block has
          0.0 too; otherwise the model would learn not to think (Qwen3). With think=True each opening <think> has 0.0, since the
          prompt contains it.
        - The ids start like those of the checkpoint's template: with a begin-of-text token or a default system message, if it
          has them.
        - The ids of a prompt are always a prefix of the ids of the complete conversation.

        ValueError for a tokenizer without ChatML's tokens, and for a malformed message.
        """
        return self.chat.encode(messages, add_generation_prompt, think)

    def chat_prompt(self, messages: list[dict], think: bool | None = None) -> list[int]:
        """The ids of a conversation up to the model's reply; with think=None the flags in the user's turns decide."""
        return self.encode_chat(messages, True, thinking_mode(messages) if think is None else think)[0]

    def tool_turn(self, text: str) -> list[int]:
        """What follows the end token of an assistant's turn that calls a tool: the turn of the tool, and the head of the next
        turn of the assistant. The ids are those of encode_chat."""
        return self.chat.tool_turn(text)

    def thinking_in(self, ids: list[int]) -> bool | None:
        """The state of thinking at the end of a prompt, with the values of encode_chat's `think`. True: a think block is open;
        False: it is closed; None: the assistant's turn has no think block yet."""
        return self.chat.thinking_in(ids)

    def decode_reply(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of a completion, with thinking marks but no other special tokens. If the prompt opened <think>, it is
        added."""
        known = [i for i in tokens if int(i) in self._bytes]                  # without ids that no token has
        return (THINK if self.thinking_in(prompt) else "") + self.decode(known, skip_special=True)


def train_command(args: argparse.Namespace, sample_texts: Callable[[str], Iterable[str]]) -> None:
    """Trains a tokenizer on files. sample_texts: a function that gives the texts of a SPEC."""
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
        print(f"{i:>7}  {tokenizer.token_bytes(i) if chr(0xFFFD) in text else text!r}")  # bytes: a part of a character
    cli.finish({"tokens": len(ids), "bytes": len(args.text.encode())})


def main() -> None:
    from sources.texts import CHARACTERS, sample_texts  # not at the top of the file: sources/ imports this file

    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    train = commands.add_parser("train", text="Learn a vocabulary from files.")
    train.add_argument("--data", required=True, nargs="+", metavar="SPEC",
                       help=f"files of text, of which it reads the first {CHARACTERS:,} characters each, or world:...")
    train.add_argument("--vocab-size", type=cli.positive_int, default=4096, help="tokens, with bytes and specials")
    train.add_argument("--out", type=cli.out_folder, required=True, metavar="FOLDER", help="folder to write")
    train.add_argument("--overwrite", action="store_true", help="replace the tokenizer in --out")
    show = commands.add_parser("show", text="Print the tokens of a text.")
    show.add_argument("--init", required=True, metavar="FOLDER", help="folder with a tokenizer.json")
    show.add_argument("--text", required=True, help="the text to cut")
    args = parser.parse_args()
    with cli.bad_input():
        train_command(args, sample_texts) if args.command == "train" else show_command(args)


if __name__ == "__main__":
    main()
