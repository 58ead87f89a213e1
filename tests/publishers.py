"""Tiny stand-ins for what publishers give: data sets in their formats, random weights in transformers' folders."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    OPTConfig,
    OPTForCausalLM,
)

from seedtok.mini.text import bert_tokenizer, clip_tokenizer, lm_tokenizer

WIDTH = 32
COLORS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}


def photographs(folder: Path, names: list[str]) -> list[str]:
    """JPEGs of one colour each, with noise and of different sizes; returns their colours."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(names))
    colors = []
    for i, name in enumerate(names):
        color = list(COLORS)[i % len(COLORS)]
        pixels = np.array(COLORS[color]) + rng.integers(-15, 16, (40 + i % 7, 50 + i % 5, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
        colors.append(color)
    return colors


def coco(folder: Path, count: int) -> None:
    """Karpathy's dataset_coco.json and its pictures: five captions each, "restval" beside "train", some to test on."""
    names = [f"COCO_val2014_{i:012}.jpg" for i in range(count)]
    colors = photographs(folder / "val2014", names)
    images = []
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        raw = [f"A {color} square, seen {way}." for way in ("near", "far", "once", "twice", "again")]
        sentences = [
            {"raw": text, "imgid": i, "sentid": 5 * i + k, "tokens": text.split()} for k, text in enumerate(raw)
        ]
        split = ("test", "restval", "train", "train")[i % 4]
        images.append(
            {"filepath": "val2014", "filename": name, "imgid": i, "cocoid": 1000 + i, "split": split,
             "sentids": [s["sentid"] for s in sentences], "sentences": sentences}
        )  # fmt: skip
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def cc3m(folder: Path, count: int) -> None:
    """Train_GCC-training.tsv and pictures named by its lines."""
    colors = photographs(folder / "images", [f"{i:09}.jpg" for i in range(count)])
    lines = [f"a {color} wall\thttp://example.com/{i}.jpg\n" for i, color in enumerate(colors)]
    (folder / "Train_GCC-training.tsv").write_text("".join(lines))


def blip2(folder: Path) -> None:
    """BLIP-2 for retrieval, as blip2-itm-vit-g: 32 queries, a text branch, projections."""
    words = bert_tokenizer()
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=28
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2,
            encoder_hidden_size=WIDTH, vocab_size=len(words), max_position_embeddings=64, use_qformer_text_input=True,
        ).to_dict(),
        num_query_tokens=32, image_text_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    words.save_pretrained(str(folder))


def stable_diffusion(folder: Path) -> None:
    """As Stable Diffusion v1.4, of 32 x 32 pixels: CLIP's text encoder of 77 tokens, AutoencoderKL, PNDM."""
    torch.manual_seed(1)
    words = clip_tokenizer(77)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(WIDTH,), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=WIDTH,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=words, unet=unet, safety_checker=None,
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
            steps_offset=1),
        feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def opt(folder: Path) -> None:
    """An OPT with a tokenizer of its own."""
    torch.manual_seed(2)
    words = lm_tokenizer()
    OPTForCausalLM(
        OPTConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).save_pretrained(folder)
    words.init_kwargs.pop("known_words")  # which published tokenizers lack
    words.save_pretrained(str(folder))


# ---------------------------------------------------------------- sets to evaluate on, by hand


def picture(path: Path, number: int) -> None:
    """A JPEG of noise that no other number has, of a size that no model takes as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48 + number, 40), Image.Resampling.NEAREST).save(path, quality=95)


# the captions of five pictures; the second and the third share one, the fourth has two that are the same
KARPATHY = [
    ["A man riding a wave on top of a surfboard.", "A surfer rides.", "Man, sea.", "One wave.", "A wave (big)!"],
    ["A red bus on the street.", "A bus.", "The bus is red.", "A street with a bus.", "Bus at a stop."],
    ["A cat sleeps on a sofa.", "A cat.", "A bus.", "The cat sleeps.", "Sofa with a cat on it."],
    ["Two dogs play in the snow.", "Dogs.", "Dogs.", "Snow and two dogs.", "Two dogs run."],
    ["A plate of food.", "Food.", "Some food on a plate.", "A white plate.", "Lunch."],
]


def karpathy(folder: Path, name: str = "coco") -> Path:
    """dataset_coco.json or dataset_flickr30k.json: five pictures to test on, one each of the other splits."""
    images = []
    for i, (split, captions) in enumerate(
        [("train", ["A train."]), ("restval", ["Rest."]), ("val", ["Val."]), *(("test", texts) for texts in KARPATHY)]
    ):
        where = {"filepath": "train2014" if split == "train" else "val2014"} if name == "coco" else {}
        file = f"COCO_{where['filepath']}_{i:012}.jpg" if name == "coco" else f"{1000 + i}.jpg"
        picture(folder / "images" / where.get("filepath", "") / file, i)
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": i, "sentid": 10 * i + k}
            for k, text in enumerate(captions)
        ]
        ids = {"imgid": i} | ({"cocoid": 500 + i} if name == "coco" else {})
        images.append(
            {**where, "sentids": [s["sentid"] for s in sentences], "filename": file, **ids, "split": split,
             "sentences": sentences}
        )  # fmt: skip
    path = folder / f"dataset_{name}.json"
    path.write_text(json.dumps({"images": images, "dataset": name}))
    return path


def nocaps(folder: Path) -> Path:
    """nocaps_val_4500_captions.json: two pictures of each domain, ten captions each, annotations out of order."""
    images, annotations = [], []
    for i, domain in enumerate(("near-domain", "in-domain", "out-domain", "in-domain", "near-domain", "out-domain")):
        file = f"{i:016x}.jpg"
        picture(folder / "images" / file, 20 + i)
        images.append(
            {"license": 0, "open_images_id": f"{i:016x}", "id": i, "file_name": file, "width": 8, "height": 6,
             "coco_url": f"https://example.org/{file}", "date_captured": "2018-11-06 11:04:33", "domain": domain}
        )  # fmt: skip
        nouns = ("dog", "cat", "boat", "tree", "cake", "robot")
        ways = ("left", "right", "top", "bottom", "front", "back", "side", "north", "south", "west")
        annotations += [
            {"image_id": i, "id": 10 * i + k, "caption": f"A {nouns[i]} seen from the {way}."}
            for k, way in enumerate(ways)
        ]
    path = folder / "nocaps_val_4500_captions.json"
    record = {"licenses": [], "info": {}, "images": images, "annotations": annotations[::-1]}
    path.write_text(json.dumps(record))
    return path


# picture, question, its type, answer type, ten answers
VQA = [
    (42, "Is it sunny?", "is it", "yes/no", ["yes"] * 10),
    (73, "How many dogs are there?", "how many", "number", ["2"] * 6 + ["3"] * 3 + ["two"]),
    (42, "What is he wearing?", "what is he", "other", ["t-shirt"] * 4 + ["shirt"] * 3 + ["a shirt", "wetsuit", "top"]),
    (73, "Is this a cat?", "is this a", "yes/no", ["no"] * 8 + ["yes"] * 2),
    (99, "What color is the bus?", "what color is the", "other", ["red"] * 2 + ["blue"] * 8),
]  # fmt: skip


def vqav2(folder: Path) -> Path:
    """Both official files of the validation split, and its pictures."""
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions, annotations = [], []
    for i, (image, text, kind, answer_type, answers) in enumerate(VQA):
        picture(folder / "images" / "val2014" / f"COCO_val2014_{image:012}.jpg", image % 10)
        number = image * 1000 + i
        questions.append({"image_id": image, "question": text, "question_id": number})
        people = [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(answers, 1)]
        annotations.append(
            {"question_type": kind, "multiple_choice_answer": answers[0], "answers": people, "image_id": image,
             "answer_type": answer_type, "question_id": number}
        )  # fmt: skip
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**head, "task_type": "Open-Ended", "questions": questions})
    )
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**head, "annotations": annotations}))
    return folder


GQA = [
    ("n1", "Is it overcast?", "no", "verify"),
    ("n1", "What is on the table?", "plate", "query"),
    ("n2", "Is the plate left or right of the cup?", "left", "choose"),
]


def gqa(folder: Path) -> Path:
    """testdev_balanced_questions.json, an object of objects, and its pictures."""
    questions = {}
    for i, (image, text, answer, kind) in enumerate(GQA):
        picture(folder / "images" / f"{image}.jpg", 30 + int(image[1:]))
        questions[f"20{i:07}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}], "entailed": [],
            "equivalent": [f"20{i:07}"], "question": text, "imageId": image, "isBalanced": True,
            "groups": {"global": None, "local": "13-weather"}, "answer": answer, "semanticStr": "select: scene",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "weatherVerify", "semantic": "global", "structural": kind},
            "fullAnswer": f"{answer}.",
        }  # fmt: skip
    path = folder / "testdev_balanced_questions.json"
    path.write_text(json.dumps(questions))
    return path


def clip(folder: Path, processor: bool = True) -> None:
    """A CLIP of 28 x 28 pixels; with an image processor of its own, that crops."""
    torch.manual_seed(3)
    words = clip_tokenizer(16)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, **ids, "vocab_size": len(words), "max_position_embeddings": 16, "initializer_factor": 20.0}
    vision = {**sizes, "image_size": 28, "patch_size": 14, "initializer_factor": 20.0}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    words.save_pretrained(str(folder))
    if processor:
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


def blip2_opt(folder: Path) -> None:
    """As blip2-opt-2.7b: a token that stands for a picture, 32 of them before a prompt, and an image processor."""
    torch.manual_seed(4)
    words = lm_tokenizer()
    words.add_tokens("<image>", special_tokens=True)
    text = OPTConfig(
        vocab_size=len(words), hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, pad_token_id=words.pad_token_id, init_std=0.3,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    vision = Blip2VisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        initializer_range=0.3,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2,
        encoder_hidden_size=WIDTH, initializer_range=0.3,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), text_config=text.to_dict(),
        num_query_tokens=32, image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    words.init_kwargs.pop("known_words", None)
    words.save_pretrained(str(folder))
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
