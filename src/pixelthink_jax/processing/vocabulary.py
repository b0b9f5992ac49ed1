"""A small byte-level vocabulary for tests and tiny policies, in the Qwen2 family's layout.

NFC, the Qwen2 split expression (each digit is a piece of its own, unless asked otherwise), the full byte alphabet,
and one token for every frequent piece of the given texts, leading space included. Pieces are matched whole
(`ignore_merges`), so the vocabulary needs no half-words, and anything unseen falls back to bytes. Special
tokens come last and so have the highest ids. The folder loads with `AutoTokenizer` of transformers.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.folder import write_json

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The split expression of the Qwen2 tokenizer: contractions, words with one leading character, single digits,
# punctuation, line breaks, spaces.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_expression(number_digits: int) -> str:
    r"""Qwen2's, or with more than one digit a piece: then a number keeps the space before it, as a word does.

    >>> split_expression(1) == QWEN2_SPLIT, r"| ?\p{N}{1,3}|" in split_expression(3)
    (True, True)
    """
    number = r"\p{N}" if number_digits == 1 else rf" ?\p{{N}}{{1,{number_digits}}}"
    return QWEN2_SPLIT.replace(r"|\p{N}|", f"|{number}|")


# The Qwen2-VL chat template: the default system message, `<|vision_start|><|image_pad|><|vision_end|>` per
# image.
QWEN2_VL_CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(
    texts: Iterable[str],
    folder: str | Path,
    *,
    max_vocab: int = 2048,
    min_count: int = 2,
    number_digits: int = 1,
) -> int:
    """Writes a small tokenizer whose vocabulary is the pieces of `texts`, most frequent first.

    Args:
        texts: The text the policy will read and write (prompts and completions).
        folder: Where `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` go; created if
            missing.
        max_vocab: Largest number of ids, with 256 bytes and the special tokens.
        min_count: Pieces seen less often are left to their bytes.
        number_digits: Most digits in one piece; 1 splits numbers into digits, as Qwen2 does.

    Returns:
        The number of ids.

    Raises:
        InputError: `max_vocab` does not hold the bytes and the special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    room = max_vocab - 256 - len(SPECIAL_TOKENS)
    if room < 0:
        raise InputError(f"max_vocab={max_vocab}: at least {256 + len(SPECIAL_TOKENS)} ids are needed")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = _byte_level(Tokenizer(models.BPE()), split_expression(number_digits))
    counts = count_pieces(tokenizer, texts)
    pieces = [p for p, n in counts.items() if n >= min_count and len(p) > 1]
    # Sorted by count, then by text: the same texts always give the same ids.
    pieces.sort(key=lambda piece: (-counts[piece], piece))
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *pieces[:room]])}
    tokenizer.model = models.BPE(vocab=vocabulary, merges=[], ignore_merges=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    write_tokenizer_folder(
        tokenizer.to_str(pretty=True) + "\n",
        folder,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=QWEN2_VL_CHAT_TEMPLATE,
    )
    return tokenizer.get_vocab_size()


def count_pieces(tokenizer: Any, texts: Iterable[str]) -> Counter[str]:
    """How often each piece of the split occurs, in byte-level letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return counts


def _byte_level(tokenizer: Any, expression: str) -> Any:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_tokenizer_folder(
    tokenizer_json: str,
    folder: str | Path,
    *,
    eos_token: str,
    pad_token: str,
    chat_template: str,
    max_length: int = 131072,
) -> None:
    """Writes the three tokenizer files in the layout that transformers 4 and 5 and vLLM read."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    settings = {
        "clean_up_tokenization_spaces": False,
        "eos_token": eos_token,
        "model_max_length": int(max_length),
        "pad_token": pad_token,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)
