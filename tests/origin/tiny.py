"""Small models of random weights, each saved by its own stack in the layout its stack publishes.

`build(family, directory)` writes one and returns the directory. The weights are drawn with a seed and scaled so
that activations neither vanish nor explode: with the libraries' own initialisation all pictures come out alike
(cosine 0.9999), and no fault would be seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5]

CORPUS = [
    "a cat asleep on a sofa",
    "a red dress on a wooden hanger",
    "two dogs are playing in the snow near a frozen lake",
    "the committee will publish its findings before the end of the year",
    "how do i reset the password of my account?",
    "12,345.67 were paid on 3 march 2021.",
    "ein rotes kleid",
    "photosynthesis converts light energy into chemical energy",
]


def build(family: str, directory: Path) -> Path:
    """Write a tiny model of a family of `FAMILIES` and return its directory."""
    import torch

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, family)))
        FAMILIES[family](directory)
    return directory


def lively(model: Any) -> Any:
    """Redraw the weights: unit variance through every layer, and batch norms as if they had seen pictures."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                wide = "embed" in name or "token" in name
                fan = parameter[0].numel()
                parameter.normal_(0, 0.5 if wide and parameter.ndim != 4 else fan**-0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # The mean over all that is seen.
            norm.reset_running_stats()
        if norms:
            blots = torch.nn.functional.interpolate(torch.randn(16, 3, 5, 5), size=64, mode="bilinear")
            model.train()(blots)
    return model.eval()


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), "utf-8")


def _processor(directory: Path, kind: str, **keys: Any) -> None:
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    _json(directory / "preprocessor_config.json", {"image_processor_type": kind, **common, **keys})


# Tokenizers, trained on the spot.


def _bpe(trainer_size: int, special: list[str], suffix: str) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=special[0], end_of_word_suffix=suffix))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=trainer_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _clip_tokenizer(directory: Path, length: int) -> dict[str, int]:
    """As the hub's CLIP: every byte with and without `</w>`, and the end token last, also used for padding."""
    from tokenizers import models, pre_tokenizers, processors

    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _bpe(900, [end, begin], "</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    words = [
        *alphabet,
        *(f"{byte}</w>" for byte in alphabet),
        *("".join(merge) for merge in merges),
        begin,
        end,
    ]
    ids = {word: at for at, word in enumerate(dict.fromkeys(words))}
    tokenizer.model = models.BPE(ids, merges, unk_token=end, end_of_word_suffix="</w>")
    tokenizer.add_special_tokens([begin, end])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, ids[end]), (begin, ids[begin]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": begin, "eos_token": end, "pad_token": end, "unk_token": end}
    _json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **names},
    )
    _json(directory / "special_tokens_map.json", names)
    return {"bos": ids[begin], "eos": ids[end], "size": len(ids)}


def _siglip_tokenizer(directory: Path) -> int:
    """The first SigLIP: lower case, no punctuation, an end token which also pads, no begin token.

    The hub's is a SentencePiece model that transformers cleans for in Python; here the cleaning is in tokenizer.json.
    """
    from tokenizers import Regex, normalizers, processors

    tokenizer = _bpe(600, ["<unk>", "</s>"], "</w>")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[\p{P}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"]}
    _json(directory / "tokenizer_config.json", {**kind, "model_max_length": 64, **names})
    return int(tokenizer.get_vocab_size())


def _siglip2_tokenizer(directory: Path) -> int:
    """Gemma's kind of byte-pair encoding, lower-cased by transformers' own Siglip2Tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import Siglip2Tokenizer

    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    options = {"model_max_length": 64, "padding_side": "right", "add_eos_token": True}
    Siglip2Tokenizer(vocab=model["vocab"], merges=merges, **options).save_pretrained(directory)
    return len(model["vocab"])


def _bert_tokenizer(directory: Path, length: int) -> int:
    from tokenizers import BertWordPieceTokenizer, processors

    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(CORPUS, vocab_size=300, min_frequency=1, show_progress=False)
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    names = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    _json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "model_max_length": length, "do_lower_case": True, **names},
    )
    _json(directory / "special_tokens_map.json", names)
    return int(tokenizer.get_vocab_size())


# Models of transformers.


def _clip(activation: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from transformers import CLIPConfig, CLIPModel

        ids = _clip_tokenizer(directory, 20)
        layers = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": activation,
        }
        text = {
            "vocab_size": ids["size"],
            "max_position_embeddings": 20,
            "bos_token_id": ids["bos"],
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["eos"],
        }
        config = CLIPConfig(
            text_config={**layers, **text},
            vision_config={**layers, "image_size": 48, "patch_size": 8},
            projection_dim=24,
        )
        lively(CLIPModel(config)).save_pretrained(directory)
        _processor(
            directory,
            "CLIPImageProcessor",
            do_convert_rgb=True,
            do_center_crop=True,
            resample=3,
            size={"shortest_edge": 48},
            crop_size={"height": 48, "width": 48},
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        )

    return write


def _siglip(*, second: bool) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from transformers import SiglipConfig, SiglipModel

        vocabulary = (_siglip2_tokenizer if second else _siglip_tokenizer)(directory)
        layers = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        text = {"vocab_size": vocabulary, "max_position_embeddings": 64, "projection_size": 32}
        text |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0 if second else 1}
        vision = {"image_size": 48, "patch_size": 8}
        config = SiglipConfig(text_config={**layers, **text}, vision_config={**layers, **vision})
        lively(SiglipModel(config)).save_pretrained(directory)
        _processor(
            directory,
            "SiglipImageProcessor",
            resample=2 if second else 3,
            size={"height": 48, "width": 48},
            image_mean=HALF,
            image_std=HALF,
        )

    return write


def _vit(directory: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=48,
        patch_size=8,
        num_labels=7,
    )
    lively(ViTForImageClassification(config)).save_pretrained(directory)
    _processor(
        directory,
        "ViTImageProcessor",
        resample=2,
        size={"height": 48, "width": 48},
        image_mean=HALF,
        image_std=HALF,
    )


def _resnet(directory: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=7)
    lively(ResNetForImageClassification(config)).save_pretrained(directory)
    _processor(
        directory,
        "ConvNextImageProcessor",
        resample=3,
        size={"shortest_edge": 64},
        crop_pct=0.875,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


def _mobilenet(directory: Path) -> None:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.1, image_size=64, num_labels=7)
    lively(MobileNetV2ForImageClassification(config)).save_pretrained(directory)
    _processor(
        directory,
        "MobileNetV2ImageProcessor",
        do_center_crop=True,
        resample=2,
        size={"shortest_edge": 72},
        crop_size={"height": 64, "width": 64},
        image_mean=HALF,
        image_std=HALF,
    )


def _convnext(directory: Path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 32, 48], depths=[1, 1, 1], num_stages=3, num_labels=7)
    lively(ConvNextForImageClassification(config)).save_pretrained(directory)
    _processor(
        directory,
        "ConvNextImageProcessor",
        resample=3,
        size={"shortest_edge": 64},
        crop_pct=0.875,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


def _dinov2(directory: Path) -> None:
    """As on the hub, the position embeddings are of another size than the pictures and are interpolated."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14
    )
    lively(Dinov2Model(config)).save_pretrained(directory)
    _processor(
        directory,
        "BitImageProcessor",
        do_convert_rgb=True,
        do_center_crop=True,
        resample=3,
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


def _bert(directory: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=_bert_tokenizer(directory, 64),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    lively(BertModel(config)).save_pretrained(directory)


def _sentence(directory: Path) -> None:
    """BERT, mean pooling, a Dense layer with tanh, normalisation; prompts for queries and documents."""
    import torch
    from safetensors.torch import save_file

    _bert(directory)
    _json(directory / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    _json(directory / "modules.json", modules)
    pooling = {
        "word_embedding_dimension": 32,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    _json(directory / "1_Pooling" / "config.json", pooling)
    activation = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": 32, "out_features": 12, "bias": True, "activation_function": activation}
    _json(directory / "2_Dense" / "config.json", dense)
    layer = lively(torch.nn.Linear(32, 12))
    weights = {f"linear.{name}": value.detach() for name, value in layer.named_parameters()}
    save_file(weights, directory / "2_Dense" / "model.safetensors")
    (directory / "3_Normalize").mkdir(exist_ok=True)
    prompts = {"query": "how do i ", "document": ""}
    _json(
        directory / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


# Models of the other stacks.


def _timm(architecture: str, size: int, **arguments: Any) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        import timm
        from timm.models import save_for_hf

        model = lively(timm.create_model(architecture, pretrained=False, num_classes=7, **arguments))
        changed = {"input_size": (3, size, size), "crop_pct": 0.875, "num_classes": 7}
        model.pretrained_cfg = {**model.pretrained_cfg, **changed}
        save_for_hf(model, directory, model_args=arguments, safe_serialization=True)

    return write


def _open_clip(directory: Path) -> None:
    from dataclasses import asdict

    import open_clip
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    }
    model = lively(CLIP(**{key: dict(v) if isinstance(v, dict) else v for key, v in config.items()}))
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()},
        directory / "open_clip_model.safetensors",
    )
    preprocess = asdict(open_clip.transform.PreprocessCfg(size=48))
    _json(directory / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})


TRANSFORMERS: dict[str, Callable[[Path], None]] = {
    "clip": _clip("gelu"),
    "clip-quickgelu": _clip("quick_gelu"),
    "siglip": _siglip(second=False),
    "siglip2": _siglip(second=True),
    "vit": _vit,
    "resnet": _resnet,
    "mobilenet_v2": _mobilenet,
    "convnext": _convnext,
    "dinov2": _dinov2,
    "bert": _bert,
    "sentence": _sentence,
}
"""Built with transformers alone; `sentence` is a directory of sentence-transformers (BERT with Dense)."""

FAMILIES: dict[str, Callable[[Path], None]] = {
    **TRANSFORMERS,
    "timm-resnet": _timm("resnet10t", 64, channels=(16, 24, 32, 40), stem_width=16),
    "timm-vit": _timm("vit_tiny_patch16_224", 64, img_size=64, depth=2, embed_dim=48),
    "open_clip": _open_clip,
}
"""Family -> the function that writes it."""
