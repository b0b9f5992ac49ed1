"""What is asked and what comes back: the protocol between forms and whoever fills them in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import UInt8
from numpy import ndarray

T = TypeVar("T")


class BadAnswer(ValueError):
    """A filled-in form that cannot be used; the message, shown to the model when it is asked again, says why."""


@dataclass(frozen=True)
class Form(Generic[T]):
    """A JSON object to be filled in.

    Attributes:
        name: Letters, digits and `_`.
        schema: JSON schema of the object; back ends that can, hold the model to it.
        read: The object as a value; raises `BadAnswer`. It is the judge: not every back end obeys a schema.
        max_tokens: Longest answer.
    """

    name: str
    schema: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], T]
    max_tokens: int


@dataclass(frozen=True)
class Request:
    """A form, the words that ask for it and the image they are about."""

    form: Form[Any]
    prompt: str
    image: UInt8[ndarray, "H W 3"]


@dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Attributes:
        text: All of it.
        input_tokens: Of prompt and image, as the back end counts them.
        output_tokens: Of the text, hidden reasoning included.
        truncated: Whether the token limit ended it.
        retries: Tries before this one that brought nothing.
    """

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool = False
    retries: int = 0


@dataclass(frozen=True)
class Failure:
    """A request that was given up, and why."""

    problem: str
    retries: int = 0


@runtime_checkable
class Backend(Protocol):
    """Whoever fills in forms."""

    @property
    def name(self) -> str:
        """Model, place and sampling: replies of back ends of one name are interchangeable."""
        ...

    @property
    def workers(self) -> int:
        """Calls of `replies` that may be under way at once."""
        ...

    @property
    def batch_size(self) -> int:
        """Requests that it likes to get in one call."""
        ...

    def replies(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """One for each request, in order.

        Raises:
            InputError: No request at all can be answered: a wrong key, model or address.
        """
        ...

    def stop(self) -> None:
        """Ends waits of calls under way, from any thread; they raise `InputError`."""
        ...

    def close(self) -> None:
        """Gives back connections; nothing is asked after that."""
        ...
