"""The tokenizer graph against the Hugging Face tokenizers of the same checkpoint."""

import itertools
import json
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime_extensions
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from builder.errors import CheckpointError
from builder.families.flux.corpus import captions
from builder.families.flux.tokenizer_graph import tokenizer_model, tokenizer_reference
from builder.stage import Arrays

LENGTH = 48
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "</s>", "<pad>", "<unk>", "<extra_id_")

PROMPTS = [
    "", " ", "   \n\t ", "a", "A red fox.", "Hello, World! it's 2024", "naïve café ZOË in Łódź",
    "日本語のプロンプト、東京タワー", "한국어 프롬프트", "पहाड़ों में एक लोमड़ी", "عنوان باللغة العربية",
    "שלום עולם", "Ещё одна лиса", "😀", "😀🎉 party 🎉🎉", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷 flags",
    "a\n\tb", "a  b   c", "\u00a0x\u2003y\u3000z", "\u2028line\u0085x\u000by",
    "\u200bzero\u200dwidth\ufeff", "İstanbul ß ẞ Σας ΟΔΟΣ", "ﬁne ½ ① x² ⅷ ٣ ೧",
    "1234567 4k 3.14 1,000", "'S 'LL don'T",
    "''s '", "'soft light' and 'moonlight'", "rock 'n' roll 'til I'd we've they'll you're he's 'm",
    "x'sy 'ss '' ''s", "a1b2c3", "#1!? ...--x (((masterpiece))) [a:b:0.5]", "▁under▁score",
    "\x01\x7f", "C:\\path \"quoted\" `code` ~^_|{}<>", "A" * 300, "1" * 200, "!" * 200,
    "a red fox " * 60, "日本 " * 90, "'s" * 90, "ü" * 120,
]  # fmt: skip

Run = Callable[[list[str]], Arrays]


@pytest.fixture(scope="module")
def native(tiny_schnell: Path) -> Run:
    model = tokenizer_model(tiny_schnell, LENGTH)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(prompts: list[str]) -> Arrays:
        names = ["clip_ids", "t5_ids"]
        prompt = np.array(prompts, object).reshape(-1, 1)
        return dict(zip(names, session.run(names, {"prompt": prompt}), strict=True))

    return run


@pytest.fixture(scope="module")
def hugging_face(tiny_schnell: Path) -> Run:
    reference = tokenizer_reference(tiny_schnell, LENGTH)
    return lambda prompts: reference({"prompt": np.array(prompts, object).reshape(-1, 1)})


def assert_same(got: Arrays, want: Arrays, prompts: list[str]) -> None:
    for name, ids in want.items():
        assert got[name].dtype == np.int64
        wrong = [p for p, a, b in zip(prompts, got[name], ids, strict=True) if (a != b).any()]
        assert not wrong, f"{name} of {wrong[:3]}"


def test_listed_prompts_one_by_one_and_together(native: Run, hugging_face: Run) -> None:
    for prompt in PROMPTS:
        assert_same(native([prompt]), hugging_face([prompt]), [prompt])
    assert_same(native(PROMPTS), hugging_face(PROMPTS), PROMPTS)


def test_the_corpus(native: Run, hugging_face: Run) -> None:
    prompts = captions()
    assert len(prompts) > 300
    assert_same(native(prompts), hugging_face(prompts), prompts)


def test_mixtures_of_what_is_treated_in_a_special_way(native: Run, hugging_face: Run) -> None:
    parts = [
        *"abcXYZ   '',.!?123-—", "'s", "'t", "'LL", " 're", " ", "\n", "é", "ß", "日本", "😀", "ñ",
        "👩‍👩", "Ω", "я", "½", "ﬁ", "\u00a0", "\u200b", "n't",
    ]  # fmt: skip
    chance = random.Random(7)
    prompts = ["".join(chance.choices(parts, k=chance.randrange(80))) for _ in range(600)]
    assert_same(native(prompts), hugging_face(prompts), prompts)


def comparable(text: str) -> bool:
    """Whether the module's docstring says that the two are the same."""
    old = unicodedata.ucd_3_2_0
    return (
        unicodedata.is_normalized("NFC", text)
        and not any(special in text for special in SPECIAL)
        and not any(c in "\0\x1c\x1d\x1e\x1f" for c in text)
        and all(old.category(c) != "Cn" or "\U0001f300" <= c <= "\U0001f9ff" for c in text)
        and not any(
            unicodedata.category(mark).startswith("M")
            and not unicodedata.is_normalized("NFKC", before)
            for before, mark in itertools.pairwise(text)
        )
    )


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,  # what a random run finds says nothing of the change that it fails
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(st.text(st.characters(max_codepoint=0x1F9FF, exclude_categories=["Cs", "Cn"])))
def test_any_text(native: Run, hugging_face: Run, text: str) -> None:
    assume(comparable(text))
    assert_same(native([text]), hugging_face([text]), [text])


def test_special_tokens_in_a_prompt_are_text(native: Run) -> None:
    ids = native(["x <|endoftext|> y</s>", "<|startoftext|>", "<pad>"])
    clip, t5 = ids["clip_ids"], ids["t5_ids"]
    start, end = clip[0, 0], clip[0, -1]
    assert (clip[:, 0] == start).all()
    assert (clip[:, 1:] != start).all()
    for row in clip:
        first = int(np.argmax(row == end))
        assert first > 3  # the words are tokens, the mark comes behind them
        assert (row[first:] == end).all()
    for row in t5:
        assert (row == 1).sum() == 1  # one </s>, at the end
        assert not row[int(np.argmax(row == 1)) + 1 :].any()


def test_a_cut_prompt_ends_with_the_end_mark(native: Run) -> None:
    ids = native(["fox " * 500])
    assert ids["clip_ids"][0, -1] == native([""])["clip_ids"][0, 1]
    assert ids["t5_ids"][0, -1] == 1
    assert ids["t5_ids"][0, -2] > 1


def test_no_prompts_give_no_rows(native: Run) -> None:
    ids = native([])
    assert ids["clip_ids"].shape == (0, 77)
    assert ids["t5_ids"].shape == (0, LENGTH)


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"abc\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"]
)
def test_what_is_no_utf8_is_refused(tiny_schnell: Path, raw: bytes) -> None:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    options.log_severity_level = 4
    model = tokenizer_model(tiny_schnell, LENGTH).SerializeToString()
    session = onnxruntime.InferenceSession(model, options)
    with pytest.raises(Exception, match="a prompt must be UTF-8 text"):
        session.run(None, {"prompt": np.array([[raw]])})


def test_nul_is_refused(native: Run) -> None:
    with pytest.raises(Exception, match="without NUL"):
        native(["fine", "a\0b"])


def test_a_very_long_prompt_is_no_burden(native: Run, hugging_face: Run) -> None:
    prompts = ["a" * 100_000, "'s" * 20_000]
    assert_same(native(prompts), hugging_face(prompts), prompts)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer/vocab.json", "vocab.json"),
        ("tokenizer/merges.txt", "merges.txt"),
        ("tokenizer_2/spiece.model", "spiece.model"),
    ],
)
def test_a_missing_file_is_named(
    tiny_schnell: Path, tmp_path: Path, file: str, message: str
) -> None:
    folder = shutil.copytree(tiny_schnell, tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        tokenizer_model(folder, LENGTH)


def test_damaged_files_are_named(tiny_schnell: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_schnell, tmp_path / "copy")
    spiece = folder / "tokenizer_2" / "spiece.model"
    spiece.write_bytes(spiece.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"spiece\.model"):
        tokenizer_model(folder, LENGTH)
    vocab = folder / "tokenizer" / "vocab.json"
    words = json.loads(vocab.read_text(encoding="utf-8"))
    del words["a</w>"]
    vocab.write_text(json.dumps(words), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"'a</w>'"):
        tokenizer_model(folder, LENGTH)


def test_the_graph_alone_needs_no_python(tiny_schnell: Path) -> None:
    """Everything is in the file: no node is a Python operator of onnxruntime-extensions."""
    model = tokenizer_model(tiny_schnell, LENGTH)
    contrib = {node.op_type for node in model.graph.node if node.domain == "ai.onnx.contrib"}
    assert contrib == {
        "StringRegexReplace",
        "StringJoin",
        "CLIPTokenizer",
        "SentencepieceTokenizer",
    }


def test_declaring_needs_no_heavy_library() -> None:
    code = (
        "import sys; import builder.families.flux.tokenizer_graph, "
        "builder.families.flux.prepare_graph, builder.families.flux.tiny, "
        "builder.families.flux.checkpoint, builder.families.flux.options; "
        "print([m for m in ('torch', 'onnx', 'diffusers', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
