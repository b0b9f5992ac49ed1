"""Prompt texts are contract data."""

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.prompts import (
    PromptTemplate,
    chat_messages,
    clean_question,
    prompt_template,
    user_text,
)

RELEASED = (
    "<image>Please find 'the cup' with bbox and points.Compare the difference between objects and find the "
    "most closely matched one.Output the thinking process in <think> </think> and final answer in <answer> "
    "</answer> tags.Output the one bbox and points of two largest inscribed circles inside the interested "
    "object in JSON format.i.e., <think> thinking process here </think><answer>{'bbox': [10,100,200,210], "
    "'points_1': [30,110], 'points_2': [35,180]}</answer>"
)


def test_the_released_text():
    assert user_text(prompt_template("pixelthink"), "The cup.") == RELEASED


def test_vision_reasoner_strips_more():
    text = user_text(prompt_template("vision_reasoner"), '"The cup?"!')
    assert text.startswith('<image>Please find "the cup" with bboxs and points.Compare')
    assert text.endswith('{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>')


def test_an_untuned_model_is_asked_in_its_own_words():
    text = user_text(prompt_template("qwen_vl"), "The cup.")
    assert text == '<image>Locate "the cup", report the bboxes coordinates in JSON format.'


def test_a_question_with_braces_is_not_a_format_string():
    assert user_text(prompt_template("plain"), "{0} {Answer}") == "<image>Please find '{0} {answer}'."


def test_an_instruction_follows_after_a_space():
    assert user_text(prompt_template("plain"), "a", instruction="Be brief.").endswith("'a'. Be brief.")


@pytest.mark.parametrize("query", ["", "...", " \n", ".  ."])
def test_an_empty_question_is_an_error(query):
    with pytest.raises(InputError, match="empty"):
        clean_question(query)


def test_a_question_cannot_move_the_image():
    for query, instruction in (("an <Image>", None), ("a", "<image>")):
        with pytest.raises(InputError, match="place of the image"):
            user_text(prompt_template("plain"), query, instruction=instruction)


def test_only_full_stops_at_the_ends_are_removed():
    assert clean_question("..What is 1.5? ...") == "what is 1.5? "


def test_templates_that_cannot_be_filled():
    with pytest.raises(InputError, match="<image>"):
        PromptTemplate("mine", "find {Question}")
    with pytest.raises(InputError, match="Question"):
        PromptTemplate("mine", "<image> find")
    with pytest.raises(InputError, match="another name"):
        PromptTemplate("plain", "<image>Find {Question}")
    with pytest.raises(InputError, match="expected one of"):
        prompt_template("nothing")


def test_messages():
    with_system = chat_messages("a<image>b", system_prompt="s")
    assert with_system[0] == {"role": "system", "content": "s"}
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert with_system[1] == {"role": "user", "content": parts}
    assert chat_messages("<image>b", system_prompt=None) == [{"role": "user", "content": parts[1:]}]
