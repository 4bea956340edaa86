"""`flux_tokenizer`: prompts to the token ids of both text encoders, without Python.

CLIP's byte pairs and T5's SentencePiece run as operators of onnxruntime-extensions. What they do
differently from the Hugging Face tokenizers (word boundaries, digits, white space, truncation)
the graph does around them. What remains different: the text of a special token (`</s>`,
`<|endoftext|>`) is text here, not that token; CLIP gets letters as they are, composed or not
(Unicode NFC), and letters of the newest scripts as symbols; the control characters U+001C to
U+001F; and a combining mark behind a character that T5's rules replace (a superscript one with an
accent), which the Hugging Face tokenizer loses, and SentencePiece itself does not.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import CheckpointError
from builder.families.flux.nodes import CONTRIB, MICROSOFT, Nodes
from builder.families.flux.shards import read_json
from builder.stage import Arrays

if TYPE_CHECKING:
    import onnx

CLIP_LENGTH = 77
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_T5_PAD, _T5_END = 0, 1

_VALID = r"[\x{1}-\x{D7FF}\x{E000}-\x{10FFFF}]*"
_BAD_TEXT = "a prompt must be UTF-8 text without NUL characters"

_SPACES = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
"""Unicode's White_Space, which `\\s` of RE2 is not."""

_SUFFIXES = r"'[sStTmMdD]|'[rRvV][eE]|'[lL][lL]"
_WORDS = rf"{_SUFFIXES}|\p{{L}}+|\p{{N}}|[^{_SPACES}\p{{L}}\p{{N}}]+"
"""CLIP's words: its own expression, for text that is not yet lower case."""


def tokenizer_model(folder: Path, max_sequence_length: int) -> "onnx.ModelProto":
    """The graph for the tokenizers of a checkpoint.

    Input: prompt BYTES [B,1]. Outputs: clip_ids INT64 [B,77], t5_ids INT64 [B,S] with S =
    `max_sequence_length`. A longer prompt is cut, a shorter one padded.

    Raises:
        CheckpointError: A file is missing or damaged, or the tokenizer is of another kind.
    """
    import numpy as np
    from onnx import TensorProto, helper

    g = Nodes()
    prompt = g.add("Reshape", "prompt", g.constant([-1], np.int64))
    valid = g.add("RegexFullMatch", prompt, pattern=_VALID)
    # The operators below never see what is no text; the check at the end fails the request.
    text = g.add("Where", valid, prompt, g.constant([""], np.object_))
    number = g.add("Cast", valid, to=TensorProto.INT32)
    good = g.add("Cast", g.add("ReduceMin", number, keepdims=0), to=TensorProto.BOOL)
    zero = g.require(good, g.constant(0, np.int64), _BAD_TEXT)

    g.add("Add", _clip(g, text, folder / "tokenizer"), zero, output="clip_ids")
    # SentencePiece's own rules know every other kind of white space.
    t5 = _t5(g, _replace(g, text, r"\x{85}", " "), folder / "tokenizer_2", max_sequence_length)
    g.add("Add", t5, zero, output="t5_ids")
    value = helper.make_tensor_value_info
    return g.model(
        "flux_tokenizer",
        [value("prompt", TensorProto.STRING, ["B", 1])],
        [
            value("clip_ids", TensorProto.INT64, ["B", CLIP_LENGTH]),
            value("t5_ids", TensorProto.INT64, ["B", max_sequence_length]),
        ],
    )


def tokenizer_reference(folder: Path, max_sequence_length: int) -> Callable[[Arrays], Arrays]:
    """The Hugging Face tokenizers of a checkpoint, as diffusers' pipeline calls them.

    Returns:
        From prompt BYTES [B,1] (objects: bytes or str) to clip_ids and t5_ids.

    Raises:
        CheckpointError: As for `tokenizer_model`.
    """
    import numpy as np

    from builder.families.flux.checkpoint import load_component

    clip = load_component(folder, "tokenizer")
    t5 = load_component(folder, "tokenizer_2")

    def run(arrays: Arrays) -> Arrays:
        texts = [
            text.decode() if isinstance(text, bytes) else str(text)
            for text in arrays["prompt"].reshape(-1)
        ]
        found = {}
        for name, tokenizer, length in (
            ("clip_ids", clip, CLIP_LENGTH),
            ("t5_ids", t5, max_sequence_length),
        ):
            encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
            found[name] = np.array(encoded.input_ids, np.int64).reshape(len(texts), length)
        return found

    return run


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in GPT-2's and CLIP's vocabularies."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def _clip(g: Nodes, text: str, folder: Path) -> str:
    """CLIP ids: INT64 [B,77]."""
    import numpy as np

    vocabulary, merges = _clip_files(folder)
    words = _clip_words(g, text)
    ids, mask = g.add_many(
        "CLIPTokenizer",
        [words],
        ["", ""],
        domain=CONTRIB,
        vocab=json.dumps(vocabulary, ensure_ascii=False),
        merges=merges,
        padding_length=-1,
    )
    start, end = vocabulary[_CLIP_START], vocabulary[_CLIP_END]
    return _close_up(g, ids, g.add("Equal", mask, g.constant(1, np.int64)), start, end)


def _clip_words(g: Nodes, text: str) -> str:
    """Texts, BYTES [B], with white space and marks where CLIP's operator needs them.

    The operator ends a word before a space only, and sees 's and the like at the start of a text
    only: so a space goes before each word, and a start mark, to be dropped, before 's. No mark
    may follow a space, which crashes the operator; a mark in a prompt falls into words.

    The expressions are attributes, which are compiled when the model is loaded. As inputs, as the
    replacing operator takes them, they would be compiled at each request, for milliseconds.
    """
    import numpy as np
    from onnx import TensorProto

    def texts(*values: str) -> str:
        return g.constant(list(values), np.object_)

    # Of several matches at one place this operator takes the longest, CLIP the first; only 's and
    # the like have a competitor, which is their apostrophe. No text at all is too little for these
    # operators: a spare one goes through them.
    padded = g.add("Concat", text, texts(""), axis=0)
    words = g.add(
        "Tokenizer", padded, domain=MICROSOFT, tokenexp=_WORDS, mark=0, mincharnum=1, pad_value=""
    )
    # ONNX does not know that operator, and its inference (1.23) crashes where StringConcat gets
    # a value of unknown type.
    words = g.add("Cast", words, to=TensorProto.STRING)
    one = g.constant([1], np.int64)
    # A last, empty word puts a space behind the text, and gives a text without words one.
    rows = g.add("Shape", padded)
    column = g.add("Concat", rows, one, axis=0)
    words = g.add("Concat", words, g.add("Expand", texts(""), column), axis=1)
    suffix = g.add("RegexFullMatch", words, pattern=_SUFFIXES)
    before = g.add("Where", suffix, texts(_CLIP_START), texts(" "))
    marked = g.add("StringConcat", before, words)
    joined = g.add("StringJoin", marked, texts(""), one, domain=CONTRIB)
    return g.add("Slice", joined, g.constant([0], np.int64), g.constant([-1], np.int64))


def _close_up(g: Nodes, ids: str, real: str, start: int, end: int) -> str:
    """Ids without padding and start marks, then between one start mark and one end mark or more.

    Args:
        ids: INT64 [B,L], start mark first.
        real: BOOL [B,L], false where `ids` is padding.
    """
    import numpy as np
    from onnx import TensorProto

    mark = g.add("Equal", ids, g.constant(start, np.int64))
    kept = g.add("And", real, g.add("Not", mark))
    # The k-th id that is kept goes to place k; all others to a place beyond, which is cut off.
    count = g.add("CumSum", g.add("Cast", kept, to=TensorProto.INT64), g.constant(1, np.int64))
    room = g.constant(CLIP_LENGTH, np.int64)
    place = g.add("Min", g.add("Where", kept, count, room), room)
    one, last = g.constant([1], np.int64), g.constant([CLIP_LENGTH - 1], np.int64)
    rows = g.add("Shape", ids, start=0, end=1)
    blank = g.add(
        "Expand",
        g.constant(end, np.int64),
        g.add("Concat", rows, g.constant([CLIP_LENGTH + 1], np.int64), axis=0),
    )
    placed = g.add("ScatterElements", blank, place, ids, axis=1)
    middle = g.add("Slice", placed, one, last, one)
    # Padding is the end mark, too, so the last place holds one whether or not a text is cut.
    begun = g.add("Pad", middle, g.constant([0, 1, 0, 0], np.int64), g.constant(start, np.int64))
    return g.add("Pad", begun, g.constant([0, 0, 0, 1], np.int64), g.constant(end, np.int64))


def _t5(g: Nodes, text: str, folder: Path, length: int) -> str:
    """T5 ids: INT64 [B,length]."""
    import numpy as np
    from onnx import TensorProto

    no, yes = g.constant([False], np.bool_), g.constant([True], np.bool_)
    settings = (g.constant([0], np.int64), g.constant([0.0], np.float32), no, yes, no, no)
    tokens, starts, _ = g.add_many(
        "SentencepieceTokenizer",
        [text, *settings],
        ["", "", ""],
        domain=CONTRIB,
        model=_t5_file(folder),
    )
    tokens = g.add("Cast", tokens, to=TensorProto.INT64)
    # The tokens of all texts lie one behind the other; row i begins at starts[i].
    place = g.constant([np.arange(length)], np.int64)
    begin = _column(g, starts, 0, -1)
    size = g.add("Sub", _column(g, starts, 1, 2**31), begin)
    last = g.add("Sub", g.add("Shape", tokens), g.constant([1], np.int64))
    where = g.add("Min", g.add("Add", begin, place), last)
    inside = g.add("Less", place, size)
    ids = g.add("Where", inside, g.add("Gather", tokens, where), g.constant(_T5_PAD, np.int64))
    is_last = g.constant([np.arange(length) == length - 1], np.bool_)
    cut = g.add("And", is_last, g.add("Greater", size, g.constant(length, np.int64)))
    return g.add("Where", cut, g.constant(_T5_END, np.int64), ids)


def _column(g: Nodes, vector: str, start: int, end: int) -> str:
    """vector[start:end] as a column."""
    import numpy as np

    axis = g.constant([0], np.int64)
    part = g.add("Slice", vector, g.constant([start], np.int64), g.constant([end], np.int64), axis)
    return g.add("Unsqueeze", part, g.constant([1], np.int64))


def _replace(g: Nodes, text: str, pattern: str, rewrite: str) -> str:
    import numpy as np

    return g.add(
        "StringRegexReplace",
        text,
        g.constant([pattern], np.object_),
        g.constant([rewrite], np.object_),
        domain=CONTRIB,
        global_replace=1,
    )


def _clip_files(folder: Path) -> tuple[dict[str, int], str]:
    where = folder / "vocab.json"
    vocabulary = read_json(where)
    symbols = byte_symbols()
    needed = [*symbols, *(symbol + "</w>" for symbol in symbols), _CLIP_START, _CLIP_END]
    if missing := [name for name in needed if not isinstance(vocabulary.get(name), int)]:
        raise CheckpointError(
            f"has no number for {', '.join(map(repr, missing[:8]))}"
            + (f" and {len(missing) - 8} more" if len(missing) > 8 else ""),
            where=where,
            hint="CLIP's vocabulary holds every byte, with and without </w>",
        )
    config = read_json(folder / "tokenizer_config.json")
    for name in ("pad_token", "eos_token"):
        token = config.get(name, _CLIP_END)
        token = token.get("content") if isinstance(token, dict) else token
        if token != _CLIP_END:
            raise CheckpointError(
                f"{name} is {token!r}, FLUX.1 has {_CLIP_END!r}",
                where=folder / "tokenizer_config.json",
            )
    try:
        return vocabulary, (folder / "merges.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=folder / "merges.txt") from error


def _t5_file(folder: Path) -> bytes:
    """spiece.model, with the ids that T5 gives to padding and the end mark."""
    import sentencepiece

    where = folder / "spiece.model"
    try:
        model = where.read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"no SentencePiece model: {error}", where=where, hint="download it again"
        ) from error
    found = (processor.pad_id(), processor.eos_id())
    if found != (_T5_PAD, _T5_END):
        raise CheckpointError(f"pad and end are {found}, T5 has (0, 1)", where=where)
    return model
