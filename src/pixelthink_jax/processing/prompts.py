"""Prompt texts as contract data, and the cleaning of a question.

The texts are those the published models were trained with, character by character (the sentences run
together). Sources: songw-zju/PixelThink @052d9de (equal to Seg-Zero's), VisionReasoner @a455092; `qwen_vl` is what
VisionReasoner asks an untuned Qwen2.5-VL as a baseline (`models/qwen_vl.py` in the copy dexterdley/VisionReasoner
@4ba1ef4); `plain` is ours, short, for tiny policies.
"""

from dataclasses import dataclass
from typing import Any

from pixelthink_jax.errors import InputError

IMAGE = "<image>"
QUESTION = "{Question}"

_PIXELTHINK = (
    "<image>Please find '{Question}' with bbox and points."
    "Compare the difference between objects and find the most closely matched one."
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "Output the one bbox and points of two largest inscribed circles inside the interested object "
    "in JSON format."
    "i.e., <think> thinking process here </think>"
    "<answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>"
)
_VISION_REASONER = (
    '<image>Please find "{Question}" with bboxs and points.'
    "Compare the difference between object(s) and find the most closely matched object(s)."
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "Output the bbox(es) and point(s) inside the interested object(s) in JSON format."
    "i.e., <think> thinking process here </think>"
    '<answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
    '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)
_QWEN_VL = '<image>Locate "{Question}", report the bboxes coordinates in JSON format.'
_PLAIN = "<image>Please find '{Question}'."

PROMPT_TEXTS = {
    "pixelthink": _PIXELTHINK,
    "vision_reasoner": _VISION_REASONER,
    "qwen_vl": _QWEN_VL,
    "plain": _PLAIN,
}

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
DEFAULT_STRIP = "."


@dataclass(frozen=True)
class PromptTemplate:
    """How a question becomes the user's message.

    Attributes:
        name: `pixelthink`, `vision_reasoner`, `qwen_vl`, `plain`, or any other name for a text of one's own.
        text: The message with one `<image>` and one `{Question}`.
        strip: Characters removed from both ends of the lower-cased question.
    """

    name: str
    text: str
    strip: str = DEFAULT_STRIP

    def __post_init__(self) -> None:
        """Refuses a text that cannot be filled."""
        for part in (IMAGE, QUESTION):
            if self.text.count(part) != 1:
                raise InputError(
                    f"prompt template {self.name!r}: expected exactly one {part} in {self.text!r}"
                )
        known = PROMPT_TEXTS.get(self.name)
        if known is not None and known != self.text:
            raise InputError(
                f"prompt template {self.name!r}: the text differs from the known one; give it another name"
            )


def prompt_template(name: str) -> PromptTemplate:
    """One of the known templates.

    Raises:
        InputError: There is no template of that name.

    >>> prompt_template("plain").text
    "<image>Please find '{Question}'."
    """
    if name not in PROMPT_TEXTS:
        raise InputError(f"prompt template {name!r}: expected one of {', '.join(PROMPT_TEXTS)}")
    strip = '."?!' if name == "vision_reasoner" else DEFAULT_STRIP
    return PromptTemplate(name=name, text=PROMPT_TEXTS[name], strip=strip)


def clean_question(query: str, *, strip: str = DEFAULT_STRIP) -> str:
    """Lower case, without the given characters at both ends; nothing else changes.

    Raises:
        InputError: Nothing is left.

    >>> clean_question("..The Red cup. ")
    'the red cup. '
    """
    question = query.lower().strip(strip)
    if not question.strip():
        raise InputError(f"query {query!r}: it is empty; write what to find, such as 'the red cup'")
    return question


def user_text(template: PromptTemplate, query: str, *, instruction: str | None = None) -> str:
    """The user's message with `<image>` still in it.

    Args:
        template: The text to fill.
        query: The question as the user wrote it.
        instruction: A sentence appended after a space, such as a request for brevity.

    Raises:
        InputError: The question is empty, or it or the instruction holds the mark of the image.

    >>> user_text(prompt_template("plain"), "A cup.", instruction="Be brief.")
    "<image>Please find 'a cup'. Be brief."
    """
    for part in (query, instruction or ""):
        if IMAGE in part.lower():
            raise InputError(
                f"query {part!r}: it holds {IMAGE}, which marks the place of the image; remove it"
            )
    text = template.text.replace(QUESTION, clean_question(query, strip=template.strip))
    return f"{text} {instruction}" if instruction else text


def chat_messages(template_text: str, *, system_prompt: str | None) -> list[dict[str, Any]]:
    """A conversation in the chat template's form, the image where the first `<image>` stands.

    Args:
        template_text: A filled user message with `<image>` in it.
        system_prompt: Text of the system message; None sends none (a Qwen2-VL template then inserts its
            default).
    """
    before, _, after = template_text.partition(IMAGE)
    content = [{"type": "text", "text": before}] if before else []
    content += [{"type": "image"}, {"type": "text", "text": after}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    return messages if system_prompt is None else [{"role": "system", "content": system_prompt}, *messages]
