"""The tokenizer of a policy folder: text to ids and back, chat rendering, and the ids that mean something.

First step of both flows. The vocabulary is whatever the folder holds (`tokenizer.json`); no id is written in
this package. `vocabulary.build_tokenizer` makes a small one for tests and the tiny models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.folder import read_json, require_file

# Names of the family's vision tokens, and the config fields that hold their ids when a config.json has them.
VISION_TOKENS = {
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<|vision_pad|>": "vision_token_id",
    "<|image_pad|>": "image_token_id",
    "<|video_pad|>": "video_token_id",
}


@dataclass(frozen=True)
class SpecialIds:
    """Token ids with a meaning, read from the folder.

    Attributes:
        eos: Ids that end a completion: `generation_config.json` (or `config.json` without one) and the
            tokenizer's own end token.
        end_of_turn: The tokenizer's end token, which closes a message of the chat; the last training target.
        pad: Padding id.
        image_pad: One merged image patch.
        vision_start: Opens an image.
        vision_end: Closes an image.
        vision: Every vision id, sorted; a policy must never sample one of them.
    """

    eos: tuple[int, ...]
    end_of_turn: int
    pad: int
    image_pad: int
    vision_start: int
    vision_end: int
    vision: tuple[int, ...]


class Tokenizer:
    """Text to ids and back for one policy folder.

    Attributes:
        special: The ids that mean something.
        chat_template: Jinja source of the chat template.
        vocab_size: Number of ids, special ones included.
        special_tokens: Texts of the special tokens, which must not appear in a user's question.
    """

    def __init__(self, backend: Any, *, source: str, chat_template: str, special: SpecialIds):
        """Wraps a loaded tokenizer; use `from_pretrained`.

        Args:
            backend: A `transformers.PreTrainedTokenizerFast`.
            source: Text of the `tokenizer.json` it was made from, kept because transformers changes its copy.
            chat_template: Jinja source.
            special: Resolved ids.
        """
        self._backend = backend
        self._source = source
        self.chat_template = chat_template
        self.special = special
        self.vocab_size = len(backend)
        self.special_tokens = frozenset(backend.all_special_tokens) | {
            token.content for token in backend.added_tokens_decoder.values()
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json`, `tokenizer_config.json`, the chat template and the ids of the configs.

        Args:
            folder: Local folder of a Hugging Face model.

        Raises:
            InputError: A file is missing or unreadable, or a token the family needs is not in the vocabulary.
        """
        folder = Path(folder)
        source = require_file(
            folder, "tokenizer.json", remedy="save it with transformers: AutoTokenizer...save_pretrained"
        )
        settings = read_json(folder / "tokenizer_config.json", default={})
        backend = _load_backend(source, settings)
        config = read_json(folder / "config.json", default={})
        generation = read_json(folder / "generation_config.json", default={})
        special = _special_ids(backend, config, generation, folder)
        template = _chat_template(folder, settings)
        return cls(
            backend, source=source.read_text(encoding="utf-8"), chat_template=template, special=special
        )

    def encode(self, text: str) -> Int32[np.ndarray, " t"]:
        """Ids of a text in which special tokens are written out; nothing is added."""
        return np.asarray(self._backend.encode(text, add_special_tokens=False), np.int32)

    def decode(
        self, ids: Iterable[int | np.integer] | Int[np.ndarray, " t"], *, skip_special: bool = True
    ) -> str:
        """Text of ids, byte for byte: no clean-up of spaces, ids outside the vocabulary are dropped."""
        known = [int(i) for i in ids if 0 <= int(i) < self.vocab_size]
        return self._backend.decode(
            known, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )

    def count(self, text: str) -> int:
        """Number of tokens of a plain text."""
        return len(self._backend.encode(text, add_special_tokens=False))

    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for, by id; special tokens and gaps are empty."""
        letters = _byte_letters()
        added = self._backend.added_tokens_decoder
        tokens = self._backend.convert_ids_to_tokens(list(range(self.vocab_size)))
        return [
            b"" if token is None or i in added else bytes(letters[letter] for letter in token)
            for i, token in enumerate(tokens)
        ]

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text of a conversation by the folder's chat template, run by transformers' sandboxed Jinja.

        Raises:
            InputError: The template is malformed or refuses the conversation.
        """
        from jinja2 import TemplateError

        try:
            return self._backend.apply_chat_template(
                list(messages),
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError as error:
            raise InputError(f"chat template: {error}; copy it from the base model") from error

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
        from pixelthink_jax.processing.vocabulary import write_tokenizer_folder

        write_tokenizer_folder(
            self._source,
            folder,
            eos_token=self._backend.eos_token,
            pad_token=self._backend.pad_token,
            chat_template=self.chat_template,
            max_length=self._backend.model_max_length,
        )


def _byte_letters() -> dict[str, int]:
    """Byte of each letter of the byte-level alphabet (GPT-2's `bytes_to_unicode`, inverted)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _load_backend(source: Path, settings: Mapping[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {key: _token_text(settings.get(key)) for key in ("eos_token", "pad_token")}
    eos, pad = names["eos_token"], names["pad_token"]
    if eos is None:
        raise InputError(
            f"{source.parent / 'tokenizer_config.json'}: no eos_token; add the token that ends a message, "
            'such as "eos_token": "<|im_end|>"'
        )
    length = settings.get("model_max_length") or 131072
    try:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(source), eos_token=eos, pad_token=pad or eos, model_max_length=int(length)
        )
    # The tokenizers library raises a bare Exception for any malformed file.
    except Exception as error:  # noqa: BLE001
        raise InputError(f"{source}: not a readable tokenizer ({error}); copy the file again") from error


def _token_text(value: object) -> str | None:
    """A token of `tokenizer_config.json`, written as a string or as an AddedToken record."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    """The processor's template first (it knows images), then the tokenizer's own."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for candidate in (read_json(folder / "chat_template.json", default={}), settings):
        template = candidate.get("chat_template")
        if isinstance(template, list):
            template = next((t.get("template") for t in template if t.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    raise InputError(
        f"{folder}: no chat template (chat_template.jinja or .json, or the key in tokenizer_config.json); "
        "copy it from the base model"
    )


def _special_ids(
    backend: Any, config: Mapping[str, Any], generation: Mapping[str, Any], folder: Path
) -> SpecialIds:
    vocabulary = backend.get_vocab()
    vision = {}
    for token, field in VISION_TOKENS.items():
        value = config.get(field, vocabulary.get(token))
        if value is not None:
            vision[token] = int(value)
    for token in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>"):
        if token not in vision or vocabulary.get(token, vision[token]) != vision[token]:
            raise InputError(
                f"{folder}: the id of {token} is {vocabulary.get(token)} in the tokenizer and "
                f"{config.get(VISION_TOKENS[token])} in config.json; they must be equal"
            )
    end_of_turn = backend.convert_tokens_to_ids(backend.eos_token)
    text_config = config.get("text_config") or {}
    stops = generation.get("eos_token_id", config.get("eos_token_id", text_config.get("eos_token_id")))
    return SpecialIds(
        eos=tuple(sorted({end_of_turn, *_as_ids(stops)})),
        end_of_turn=end_of_turn,
        pad=backend.convert_tokens_to_ids(backend.pad_token),
        image_pad=vision["<|image_pad|>"],
        vision_start=vision["<|vision_start|>"],
        vision_end=vision["<|vision_end|>"],
        vision=tuple(sorted(set(vision.values()))),
    )


def _as_ids(value: int | Iterable[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
