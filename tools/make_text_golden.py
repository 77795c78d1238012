"""Write the reference files of the text tests with sentence-transformers, transformers and open_clip.

    python tools/make_text_golden.py tests/golden/text

Run it where the three, torch and sentencepiece are installed; the tests need none of them. Every tokeniser is made
here of the sentences below and every network has random weights, so nothing is downloaded. For each case a directory as
the library itself writes it, without the network's weights, and beside it `<case>.npz`: the texts, what the
original tokeniser made of them, the token vectors, and the sentence vectors that the original modules made of those.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import sentence_transformers
import sentencepiece
import torch
import transformers
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WIDTH = 12
CORPUS = [
    "two dogs play in the snow",
    "a red dress with white dots hangs on the door",
    "the cat sleeps on a warm stone near the river",
    "a photo of a small wooden house under tall trees",
    "people walk along the beach while the sun sets",
    "a close-up picture of fresh bread, cheese and olives",
    "search for words: query, passage, document",
    "Represent this sentence for searching relevant passages",
    "An OLD Car, parked; in front of Bob's shop!",
    "naïve café in Köln, crème brûlée 1234567890 (50%)",
]
TEXTS = [
    "",
    "   ",
    "a red dress",
    "A RED Dress, with: dots!",
    "  two dogs \n play in\tthe snow ",
    "naïve café in Köln",
    "赤いドレス 🙂🏽",
    "a\x00b [SEP] </s> c",
    "the cat's stone isn't a_house under the-trees",
    "dog " * 30,
]
LONG = [*TEXTS, "a " * 75, "a " * 76, "a " * 200]
"""For the cases without token vectors: at 75 words CLIP's 77 tokens are full."""

CLEANED = [
    "",
    "a red dress",
    "  Curly “quotes” and ‘single’ ones…  ",
    "Tom &amp; Jerry &amp;amp; friends &lt;b&gt;",
    "<b>bold</b> &amp; <i>it</i>",
    "ﬁne ﬂat oﬃce ﬅ Ĳ ŉ Ǆ",
    "ＦＵＬＬ　ｗｉｄｔｈ ｱｲ",
    "line\r\nbreak\rand\u2028more\u2029end\x85x",
    "bell\x07 and \x1b[31mred\x1b[0m \ufeffmark",
    "e\u0301 cafe\u0301 Å",
    "snake_case, and-dash: A.B!",
    "\x93smart\x94 it\x92s",
    "&rsquo;first line\nsecond <b> &rsquo;line",
    "&amp;rsquo;twice &amp;amp;lt;",
    "word " * 100,
]


def versions() -> dict[str, str]:
    """Of everything that a file depends on."""
    named = (torch, transformers, sentence_transformers, open_clip, sentencepiece)
    return {module.__name__: module.__version__ for module in named}


def write(path: Path, meta: dict[str, Any], **arrays: Any) -> None:
    """One compressed file; `meta` is JSON text in it, and says which versions wrote it."""
    text = json.dumps({"format": 1, "made_with": versions(), **meta}, ensure_ascii=True)
    np.savez_compressed(path, meta=np.asarray(text), **arrays)


def keep(source: Path, target: Path) -> None:
    """Copy what the tests read of a directory: not the network's weights, not the model's page."""
    for file in sorted(source.rglob("*")):
        relative = file.relative_to(source)
        if (
            file.is_dir()
            or relative.as_posix() in ("model.safetensors", "README.md")
            or file.suffix == ".model"
        ):
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / relative)


def wordpiece(folder: Path, *, lower: bool) -> None:
    """A BERT tokeniser and a random BERT of one layer."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [word for sentence in CORPUS for word in sentence.lower().split()]
    letters = sorted({letter for word in words for letter in word})
    known = sorted({word for word in words if word.isalpha()})[::2]  # the others fall apart into letters
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *known])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_truncation(11)  # said by nobody else: has to be ignored
    tokenizer.enable_padding(length=11)
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        **{f"{name}_token": token for name, token in names.items()},
    )
    fast.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=300,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)


def byte_level(folder: Path) -> None:
    """As Qwen3-Embedding: byte-level BPE, the end token appended, padding on the left, a causal network."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=48,
        padding_side="left",
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    ).save_pretrained(folder)
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    transformers.Qwen3Model(config).save_pretrained(folder)


def batch(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> dict[str, np.ndarray]:
    """What the library itself makes of one batch, from the text to the sentence vector."""
    with torch.inference_mode():
        features = model.preprocess(list(texts), prompt=prompt or None)
        ids, seen = features["input_ids"].clone(), features["attention_mask"].clone()
        result = model(features)
    return {
        "input_ids": ids.numpy(),
        "attention_mask": seen.numpy(),
        "hidden": result["token_embeddings"].numpy(),
        "vectors": result["sentence_embedding"].numpy(),
    }


def named(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under `name.`."""
    return {f"{name}.{key}": value for key, value in arrays.items()}


POOLINGS = {
    **{mode: {"pooling_mode": mode} for mode in Pooling.POOLING_MODES},
    "two": {"pooling_mode": ("max", "cls")},
    "all": {"pooling_mode": tuple(reversed(Pooling.POOLING_MODES))},
}
PROMPT = "Represent this sentence: "


def poolings(target: Path, source: Path, case: str) -> None:
    """Every pooling over the same token vectors, with a prompt that is pooled and one that is not."""
    transformer = Transformer(str(source))
    arrays: dict[str, np.ndarray] = {}
    configs: dict[str, Any] = {}
    for name, mode in POOLINGS.items():
        for include in (True, False):
            pooling = Pooling(WIDTH, include_prompt=include, **mode)
            model = SentenceTransformer(modules=[transformer, pooling])
            model.eval()
            label = name if include else f"{name}, prompt left out"
            configs[label] = pooling.get_config_dict()
            for part, prompt in (("plain", ""), ("prompt", PROMPT)):
                found = batch(model, TEXTS, prompt)
                arrays[f"{label}.{part}"] = found.pop("vectors")
                arrays.update(named(part, found))
    with tempfile.TemporaryDirectory() as place:
        model.save(place, create_model_card=False)
        keep(Path(place), target / case)
    write(target / f"{case}.npz", {"texts": TEXTS, "prompt": PROMPT, "poolings": configs}, **arrays)


def lengths(target: Path, source: Path) -> None:
    """127, 128, 129 and 255, 256, 257 tokens, special ones counted, at a maximum of 128 and of 256."""
    texts = ["a " * (count - 2) for count in (127, 128, 129, 255, 256, 257)]
    arrays: dict[str, np.ndarray] = {}
    for maximum in (128, 256):
        transformer = Transformer(str(source), max_seq_length=maximum)
        model = SentenceTransformer(modules=[transformer, Pooling(WIDTH)])
        found = batch(model, texts)
        arrays.update({f"{maximum}.{key}": found[key] for key in ("input_ids", "attention_mask")})
    write(target / "lengths.npz", {"texts": texts}, **arrays)


def chain(target: Path, source: Path) -> None:
    """Pooling, two Dense, LayerNorm, Dense with a residual, Normalize; then cut and scaled again."""
    modules = [
        Transformer(str(source)),
        Pooling(WIDTH, pooling_mode=("cls", "mean")),
        Dense(2 * WIDTH, 20),
        Dense(20, 20, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(20),
        Dense(20, 16, activation_function=torch.nn.SiLU(), use_residual=True),
        Dense(16, 16, activation_function=torch.nn.Identity(), use_residual=True),
        Normalize(),
    ]
    torch.nn.init.normal_(modules[4].norm.weight)
    torch.nn.init.normal_(modules[4].norm.bias)
    model = SentenceTransformer(
        modules=modules,
        prompts={"query": "search for words: ", "passage": "", "document": "document, "},
        default_prompt_name="document",
    )
    model.eval()
    arrays = batch(model, TEXTS)
    for prompt in ("query", "document"):
        arrays.update(named(prompt, batch(model, TEXTS, model.prompts[prompt])))
    short = model.encode(TEXTS, prompt="", truncate_dim=7, normalize_embeddings=True)
    with tempfile.TemporaryDirectory() as place:
        model.save(place, create_model_card=False)
        keep(Path(place), target / "chain")
    write(target / "chain.npz", {"texts": TEXTS, "dimensions": 7}, short=short, **arrays)


def activations(target: Path) -> None:
    """Every activation that a Dense module is known to be saved with."""
    x = torch.linspace(-6, 6, 97)
    names = ("Identity", "Tanh", "ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Softplus", "Mish")
    write(
        target / "activations.npz",
        {"names": names},
        x=x.numpy(),
        **{name: getattr(torch.nn, name)()(x).numpy() for name in names},
    )


def lower_case(target: Path, source: Path) -> None:
    """`do_lower_case` in the old spelling of sentence_bert_config.json, over a tokeniser that keeps case."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        SentenceTransformer(modules=[Transformer(str(source)), Pooling(WIDTH)]).save(
            place, create_model_card=False
        )
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": true}')
        model = SentenceTransformer(place)
        keep(folder, target / "lower_case")
        write(target / "lower_case.npz", {"texts": TEXTS}, **batch(model, TEXTS))


def growing(word: str) -> list[tuple[str, str]]:
    """The merges that put a word together from its left end, the last letter carrying CLIP's end mark."""
    letters = [*word[:-1], f"{word[-1]}</w>"]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def clip(target: Path) -> None:
    """CLIP's own tokeniser class, with the usual padding and with '!'; open_clip's own on the same merges."""
    words = sorted({word for sentence in CORPUS for word in sentence.lower().split() if word.isascii()})
    merges = list(dict.fromkeys(pair for word in words if word.isalpha() for pair in growing(word)))[:160]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        with gzip.open(folder / "bpe.txt.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
        simple = SimpleTokenizer(str(folder / "bpe.txt.gz"))
        vocabulary = dict(simple.encoder)
        for old, new in (("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")):
            vocabulary[new] = vocabulary.pop(old)
        for case, padding in (("clip", "<|endoftext|>"), ("clip_laion", "!")):
            fast = transformers.CLIPTokenizer(
                vocab=vocabulary, merges=merges, pad_token=padding, model_max_length=77
            )
            fast.save_pretrained(folder / case)
            transformers.CLIPConfig(
                text_config={"vocab_size": len(vocabulary), "hidden_size": 16, "max_position_embeddings": 77}
            ).save_pretrained(folder / case)
            found = fast(LONG, padding=True, truncation=True, return_tensors="np")
            write(target / f"{case}.npz", {"texts": LONG}, **{key: found[key] for key in found})
            keep(folder / case, target / case)
        keep(folder / "clip", target / "open_clip" / "textual")
        (target / "open_clip" / "textual" / "config.json").unlink()
        text = {"context_length": 77, "vocab_size": len(vocabulary), "width": WIDTH, "heads": 2, "layers": 1}
        (target / "open_clip" / "config.json").write_text(json.dumps({"embed_dim": 8, "text_cfg": text}))
        arrays = {"lower": simple(CLEANED).numpy()}
        for kind in ("whitespace", "canonicalize"):
            hf = HFTokenizer(str(folder / "clip"), context_length=77, clean=kind)
            arrays[kind] = hf(CLEANED).numpy()
        write(target / "open_clip.npz", {"texts": CLEANED, "guessed": "cafÃ©"}, **arrays)


def siglip(target: Path) -> None:
    """SiglipTokenizer on a sentencepiece model; beside it the same pieces as a tokenizer.json that cleans nothing."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "corpus.txt").write_text(
            "\n".join(sentence.lower() for sentence in CORPUS * 4), encoding="utf-8"
        )
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "corpus.txt"),
            model_prefix=str(folder / "spiece"),
            vocab_size=150,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            normalization_rule_name="identity",
            hard_vocab_limit=False,
            minloglevel=2,
        )
        original = transformers.SiglipTokenizer(str(folder / "spiece.model"))
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.add_special_tokens(["</s>", "<unk>"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        place_of = target / "siglip"
        original.save_pretrained(folder / "saved")
        keep(folder / "saved", place_of)
        tokenizer.save(str(place_of / "tokenizer.json"))
        transformers.SiglipConfig(text_config={"vocab_size": len(vocabulary)}).save_pretrained(place_of)
        found = original(LONG, padding="max_length", truncation=True, max_length=64, return_tensors="np")
        write(target / "siglip.npz", {"texts": LONG}, input_ids=found["input_ids"])


def siglip2(target: Path) -> None:
    """Siglip2Tokenizer, which lower-cases; beside it the Gemma tokeniser as it was published, which does not."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=460, special_tokens=special, show_progress=False)
    )
    content = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in content["merges"]]
    options = {"vocab": content["vocab"], "merges": merges, "padding_side": "right", "model_max_length": 64}
    ending = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    with tempfile.TemporaryDirectory() as place:
        gemma = transformers.GemmaTokenizer(**options, add_bos_token=False, add_eos_token=True)
        gemma.backend_tokenizer.post_processor = ending
        gemma.save_pretrained(place)
        keep(Path(place), target / "siglip2")
    transformers.SiglipConfig(text_config={"vocab_size": 460}).save_pretrained(target / "siglip2")
    original = transformers.Siglip2Tokenizer(**options)
    original.backend_tokenizer.post_processor = ending
    found = original(LONG, padding="max_length", truncation=True, max_length=64, return_tensors="np")
    write(target / "siglip2.npz", {"texts": LONG}, input_ids=found["input_ids"])


def main(target: Path) -> None:
    """Every case, into an empty directory."""
    torch.manual_seed(0)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        uncased, cased, causal = (Path(place) / name for name in ("uncased", "cased", "causal"))
        wordpiece(uncased, lower=True)
        wordpiece(cased, lower=False)
        byte_level(causal)
        poolings(target, uncased, "bert")
        poolings(target, causal, "left")
        lengths(target, uncased)
        chain(target, uncased)
        lower_case(target, cased)
    activations(target)
    clip(target)
    siglip(target)
    siglip2(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 1024:.0f} KiB, made with {versions()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
