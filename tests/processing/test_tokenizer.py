"""The tokenizer of a folder, the small vocabulary, and the ids that mean something."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import QWEN2_VL_CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer

TEXTS = [
    "<think>The red circle is left of the blue square.</think>",
    '<answer>{"bbox": [10, 20, 300, 400], "points_1": [30, 40], "points_2": [5, 6]}</answer>',
] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_pretrained(folder)


def test_words_with_their_space_are_single_tokens_and_digits_are_split(tokenizer):
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(" red circle is 120, left")]
    assert pieces == [" red", " circle", " is", " ", "1", "2", "0", ",", " left"]


def test_numbers_can_be_single_tokens_with_their_space(tmp_path):
    build_tokenizer(TEXTS, tmp_path, number_digits=3)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(TEXTS[1])]
    assert {"10", " 20", " 300", " 400", "30", " 40"} <= set(pieces)
    unseen = [tokenizer.decode([i]) for i in tokenizer.encode(" 299 1234")]
    assert unseen == [" ", "2", "9", "9", " ", "1", "2", "3", "4"]


def test_special_tokens_have_the_highest_ids(tokenizer):
    ids = [int(tokenizer.encode(token)[0]) for token in SPECIAL_TOKENS]
    assert ids == list(range(tokenizer.vocab_size - len(SPECIAL_TOKENS), tokenizer.vocab_size))
    special = tokenizer.special
    assert special.vision == tuple(ids[3:])
    assert (special.pad, special.end_of_turn, special.eos) == (ids[0], ids[2], (ids[2],))
    assert (special.vision_start, special.vision_end, special.image_pad) == (ids[3], ids[4], ids[6])
    assert tokenizer.special_tokens == set(SPECIAL_TOKENS)


def test_the_vocabulary_is_deterministic_and_bounded(folder, tmp_path):
    again = build_tokenizer(iter(TEXTS), tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert build_tokenizer(TEXTS, tmp_path / "small", max_vocab=270) == 270 < again
    assert build_tokenizer(TEXTS, tmp_path / "rare", min_count=9) < again
    with pytest.raises(InputError, match="max_vocab=100"):
        build_tokenizer(TEXTS, tmp_path / "none", max_vocab=100)


@given(st.text(max_size=40))
def test_any_text_survives_but_for_normalisation(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == unicodedata.normalize("NFC", text)


def test_decode_drops_special_and_unknown_ids(tokenizer):
    ids = [*tokenizer.encode("a red"), tokenizer.special.end_of_turn, 10**6, -1]
    assert tokenizer.decode(ids) == "a red"
    assert tokenizer.decode(ids, skip_special=False) == "a red<|im_end|>"
    assert tokenizer.decode([]) == ""
    assert tokenizer.count("a red") == len(tokenizer.encode("a red"))


def test_save_writes_the_same_tokenizer(folder, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_transformers_loads_the_folder(folder, tokenizer):
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(folder)
    text = TEXTS[0] + "<|im_end|> 日本\n\n 42"
    assert other(text)["input_ids"] == tokenizer.encode(text).tolist()
    assert (other.eos_token_id, other.pad_token_id) == (tokenizer.special.end_of_turn, tokenizer.special.pad)
    assert other.chat_template == tokenizer.chat_template == QWEN2_VL_CHAT_TEMPLATE
    assert other.decode([*tokenizer.encode("x<|im_end|>")], skip_special_tokens=True) == "x"


def copy(folder, target, **changes):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    for name, value in changes.items():
        (target / f"{name}.json").write_text(json.dumps(value))
    return target


@pytest.mark.parametrize(
    ("config", "generation", "extra"),
    [
        ({"eos_token_id": 5}, None, {5}),
        ({"text_config": {"eos_token_id": 6}}, None, {6}),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 8]}, {7, 8}),
        ({}, {"eos_token_id": 9}, {9}),
    ],
)
def test_end_ids_of_the_configs_join_the_tokenizers_own(
    folder, tokenizer, tmp_path, config, generation, extra
):
    changes = {"config": config} | ({"generation_config": generation} if generation else {})
    special = Tokenizer.from_pretrained(copy(folder, tmp_path, **changes)).special
    assert set(special.eos) == extra | {tokenizer.special.end_of_turn}


def test_a_config_that_contradicts_the_tokenizer_is_an_error(folder, tmp_path):
    with pytest.raises(InputError, match="image_pad"):
        Tokenizer.from_pretrained(copy(folder, tmp_path, config={"image_token_id": 3}))


def test_older_places_of_the_chat_template(folder, tmp_path):
    path = copy(folder, tmp_path, chat_template={"chat_template": "A"})
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": [{"name": "default", "template": "B"}]})
    )
    assert Tokenizer.from_pretrained(path).chat_template == QWEN2_VL_CHAT_TEMPLATE
    (path / "chat_template.jinja").unlink()
    assert Tokenizer.from_pretrained(path).chat_template == "A"
    (path / "chat_template.json").unlink()
    assert Tokenizer.from_pretrained(path).chat_template == "B"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="no chat template"):
        Tokenizer.from_pretrained(path)


def test_a_broken_chat_template_is_one_line(folder, tmp_path):
    for template in ("{% if %}", "{{ messages[0].nothing.at.all }}"):
        path = copy(folder, tmp_path)
        (path / "chat_template.jinja").write_text(template)
        with pytest.raises(InputError, match="chat template"):
            Tokenizer.from_pretrained(path).render_chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_damaged_tokenizer_file_is_one_line(folder, tmp_path, text):
    path = copy(folder, tmp_path)
    (path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_pretrained(path)
    assert "\n" not in str(caught.value)


def test_missing_files(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Tokenizer.from_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_pretrained(tmp_path)
    path = copy(folder, tmp_path, tokenizer_config={})
    with pytest.raises(InputError, match="eos_token"):
        Tokenizer.from_pretrained(path)
