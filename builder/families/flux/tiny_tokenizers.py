"""The tokenizers of the random checkpoints, trained on a small built-in corpus.

They have every file of the real ones; how large the networks are does not matter to them.
"""

import io
import json
from pathlib import Path
from typing import Any

from builder.families.flux.corpus import captions
from builder.families.flux.tokenizer_graph import byte_symbols

CLIP_TOKENS = 2 * 256 + 320 + 2
"""256 bytes, 256 bytes that end a word, merges, two marks."""

T5_TOKENS = 240 + 100 + 12
"""Pieces, extra ids, and spare rows of the embedding, as in T5."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MERGES = 320
_T5_PIECES = 240
_T5_EXTRA_IDS = 100


def write_clip_tokenizer(folder: Path) -> None:
    """The byte-level BPE of CLIP: 256 bytes, 256 bytes that end a word, merges, two marks."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        initial_alphabet=symbols,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [tuple(merge) for merge in learnt[:_CLIP_MERGES]]
    if len(merges) != _CLIP_MERGES:
        raise AssertionError(f"the corpus gives only {len(merges)} merges")
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), _START, _END]
    folder.mkdir()
    _write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    marks = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write_json(folder / "special_tokens_map.json", marks)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks},
    )


def write_t5_tokenizer(folder: Path) -> None:
    """The SentencePiece unigram model of T5, and the same for the `tokenizers` library."""
    import sentencepiece
    from transformers import T5Tokenizer

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions()),
        model_writer=written,
        model_type="unigram",
        vocab_size=_T5_PIECES,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model = written.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    numbers = range(processor.GetPieceSize())
    vocabulary = [(processor.IdToPiece(i), processor.GetScore(i)) for i in numbers]
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_T5_EXTRA_IDS))]
    tokenizer = T5Tokenizer(
        vocab=[*vocabulary, *extra],
        _spm_precompiled_charsmap=_charsmap(model),
        extra_ids=_T5_EXTRA_IDS,
        model_max_length=512,
    )
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(model)


def _charsmap(spiece_model: bytes) -> bytes:
    """`normalizer_spec.precompiled_charsmap` of a SentencePiece model.

    The module that sentencepiece generated for its messages needs a newer protobuf than Triton's
    client allows, so the two messages are described here; other fields are skipped as unknown.
    Field numbers: sentencepiece_model.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="spiece.proto", package="spiece")
    file.message_type.add(name="Normalizer").field.add(
        name="charsmap", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL
    )
    file.message_type.add(name="Model").field.add(
        name="normalizer",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".spiece.Normalizer",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("spiece.Model"))
    parsed: Any = message.FromString(spiece_model)
    return bytes(parsed.normalizer.charsmap)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
