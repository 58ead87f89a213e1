"""The mini world's text tokenizers, in transformers' formats, built from its captions alone."""

import json
import re
from itertools import islice

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from seedtok.lm.prompts import CAPTION, DRAW, question_prompt
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLURALS
from seedtok.mini.world.questions import questions
from seedtok.mini.world.scenes import WORDINGS, caption, scene_stream


def scene_words() -> list[str]:
    """Every word that a caption of the mini world can hold, sorted."""
    words = {*CONCEPTS, *PLURALS.values(), *BACKGROUNDS}
    for scene in islice(scene_stream("train", 0), 300):
        for phrasing in range(WORDINGS):
            words.update(caption(scene, phrasing).replace(",", "").split())
    return sorted(words)


def question_words() -> list[str]:
    """Every word that a question about a scene, or its answer, can hold, sorted."""
    words: set[str] = set()
    for i, scene in enumerate(islice(scene_stream("train", 0), 2000)):
        for question in questions(scene, np.random.default_rng(i), 20):
            words.update(f"{question.text.replace('?', '')} {question.answer}".split())
    return sorted({*words, *(f"{n}" for n in range(10))})


def _prompts() -> str:
    return f"{CAPTION} {DRAW} {question_prompt('')}"


def prompt_words() -> list[str]:
    """Every word that a prompt of a language model of the mini world can hold, without punctuation, sorted."""
    return sorted({*scene_words(), *question_words(), *re.findall(r"\w+", _prompts())})


def clip_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format that knows the mini world's words whole and spells the others.

    The same one every time: a resumed run builds its own.
    """
    plain = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    plain.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_letters = [letter + "</w>" for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        special_tokens=last_letters,  # else numbered in the order of a hash map, by which ties are broken
    )  # fmt: skip
    plain.train_from_iterator(scene_words(), trainer)
    model = json.loads(plain.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    vocabulary = [*letters, *last_letters]
    vocabulary += [a + b for a, b in merges if a + b not in vocabulary]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(dict.fromkeys(vocabulary))},
        merges=merges,  # type: ignore[arg-type]
        model_max_length=max_length,
        known_words=scene_words(),
    )


def lm_tokenizer(max_length: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE in OPT's manner, for a language model of the mini world: its words whole, all else spelt."""
    special = ["</s>", "<pad>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, show_progress=False,
        special_tokens=[*special, *letters],  # else numbered in the order of a hash map, by which ties are broken
    )  # fmt: skip
    words = {*scene_words(), *question_words(), *_prompts().split()}
    plain.train_from_iterator([text for word in sorted(words) for text in (word, " " + word)], trainer)
    merges = [tuple(m) for m in json.loads(plain.to_str())["model"]["merges"]]
    vocabulary = dict.fromkeys([*special, *letters, *(a + b for a, b in merges)])
    whole = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    whole.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=max_length, known_words=prompt_words(),
    )  # fmt: skip


def bert_tokenizer(max_length: int = 32) -> BertTokenizer:
    """A WordPiece in BERT's format that knows the mini world's words whole and spells the others."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*specials, *letters, *("##" + letter for letter in letters), *scene_words()])
    return BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=max_length)
