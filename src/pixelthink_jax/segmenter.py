"""The promptable segmenter as one object: image and prompt in, masks out, in pixels of the original image.

Pre- and post-processing follow facebookresearch/sam2 `sam2_image_predictor.py`: the image is squashed to a square as
floats with an antialiased bilinear filter, a box becomes two corner points before the clicks, a pad point ends every
prompt, and logits are enlarged in float32 before the threshold at zero. Nothing is filled or removed afterwards.

Images and prompts come in all sizes and programs are compiled for a few: pixels are padded to a multiple of 256 under
resize matrices that ignore the padding, points to a multiple of 8 that no token attends to.
"""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, Real, UInt8

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.sam2 import checkpoint
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import ImageFeatures, Params, decode_masks, encode_image
from pixelthink_jax.models.sam2.prompt_encoder import BOX_LABELS, NO_POINT, PAD_POINT, Prompts
from pixelthink_jax.models.sam2.resize import apply_matrices, resize_matrix
from pixelthink_jax.models.sam2.sharding import sharding_for
from pixelthink_jax.runtime.mesh import mesh_of
from pixelthink_jax.types import Masks

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
LOGIT_LIMIT = 32.0
_SIZE_BUCKET = 256
_POINT_BUCKET = 8
_REMEMBERED_IMAGES = 2
IMAGES_AT_ONCE = 8
"""Images in memory together, where nothing else is said."""

_DTYPES = ("float32", "bfloat16", "float16")

Places = Sequence[Any] | np.ndarray | jax.Array


@dataclass(frozen=True)
class EncodedImage:
    """An image ready for any number of prompts.

    Attributes:
        features: Of a batch of one.
        size: Height and width of the original.
    """

    features: ImageFeatures
    size: tuple[int, int]


class Segmenter:
    """SAM2 or SAM2.1 for single images.

    Attributes:
        config: The model's shape.
        params: Its parameter tree.
        dtype: Dtype of its activations.
    """

    def __init__(self, params: Params, config: Sam2Config, *, dtype: str = "float32") -> None:
        """Takes a parameter tree; `from_pretrained` reads one from disk."""
        if dtype not in _DTYPES:
            raise InputError(f"segmenter dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
        self.config, self.params, self.dtype = config, params, dtype
        self._encoded: OrderedDict[bytes, EncodedImage] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None
    ) -> "Segmenter":
        """Reads a Hugging Face Sam2 folder, or a checkpoint with the original names.

        Args:
            path: See `models.sam2.checkpoint`.
            dtype: Of parameters and activations.
            mesh: Devices of this process, with axes named as in `models.sam2.sharding`: batches of images are spread
                over them. None uses the default device.

        Raises:
            InputError: Not such a model, damaged, or with tensors that do not fit.
        """
        if dtype not in _DTYPES:
            raise InputError(f"segmenter dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
        places = None if mesh is None else sharding_for(mesh)
        config, params = checkpoint.load(path, dtype=jnp.dtype(dtype), sharding_for=places)
        return cls(params, config, dtype=dtype)

    def export(self, path: str | Path) -> None:
        """Writes a Hugging Face folder that transformers' `Sam2Model` loads."""
        checkpoint.save(path, self.params, self.config)

    def encode(self, image: np.ndarray) -> EncodedImage:
        """Runs the image encoder; the last few images are remembered by their content.

        Raises:
            InputError: Not a uint8 RGB image.
        """
        key = hashlib.blake2b(_checked_image(image).tobytes(), key=str(image.shape).encode()).digest()
        if key not in self._encoded:
            self._encoded[key] = EncodedImage(self._encode([image]), image.shape[:2])
            if len(self._encoded) > _REMEMBERED_IMAGES:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def predict(
        self,
        image: np.ndarray | EncodedImage,
        box_xyxy: Places | None,
        points_xy: Places | None,
        *,
        point_labels: Sequence[int] | None = None,
        mask_logits: np.ndarray | None = None,
        multimask: bool = True,
        as_given: bool = False,
    ) -> Masks:
        """Masks for one prompt.

        Args:
            image: RGB pixels, uint8 `[H, W, 3]`, or what `encode` made of them.
            box_xyxy: Left, top, right, bottom in image pixels, or None.
            points_xy: Any number of clicks in image pixels, or None.
            point_labels: 1 for a click on the object, 0 for one on the background; all 1 by default.
            mask_logits: `[s, s]` low-resolution logits of an earlier prediction, to refine.
            multimask: Three masks, or the single one for an unambiguous prompt.
            as_given: Take places outside the image and boxes with swapped corners, as the original predictor does;
                for a policy's own answers.

        Returns:
            Logits clamped to +-32, masks at the image's size, and predicted IoUs.

        Raises:
            InputError: Neither box nor points; a place that is not finite or outside the image; a box with swapped
                corners; not a uint8 RGB image.
        """
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        places, labels = _prompt_row(encoded.size, box_xyxy, points_xy, point_labels, as_given=as_given)
        prompts = _stack_prompts([(places, labels)], [encoded.size], self.config, mask_logits)
        return self._decode(encoded.features, prompts, [encoded.size], multimask=multimask)[0]

    def predict_batch(
        self,
        images: Sequence[np.ndarray | EncodedImage],
        boxes_xyxy: Sequence[Places | None],
        points_xy: Sequence[Places | None],
        *,
        multimask: bool = True,
        as_given: bool = False,
        batch_size: int = IMAGES_AT_ONCE,
    ) -> list[Masks]:
        """One prompt for each of many images, of any sizes; equals `predict` on each.

        An array that comes several times in a batch, as the image of a group does, is encoded once.

        Args:
            images: As `predict` takes them.
            boxes_xyxy: A box or None for each.
            points_xy: Clicks or None for each.
            multimask: See `predict`.
            as_given: See `predict`.
            batch_size: Images in memory at once.

        Raises:
            InputError: See `predict`; or lists of different lengths.
        """
        if not len(images) == len(boxes_xyxy) == len(points_xy):
            raise InputError(
                f"predict_batch: {len(images)} images, {len(boxes_xyxy)} boxes and {len(points_xy)} sets of points; "
                "give one of each, None where there is none"
            )
        sizes = [i.size if isinstance(i, EncodedImage) else _checked_image(i).shape[:2] for i in images]
        rows = [
            _prompt_row(size, box, points, None, as_given=as_given)
            for size, box, points in zip(sizes, boxes_xyxy, points_xy, strict=True)
        ]
        results: list[Masks] = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            features = self._features(images[part])
            prompts = _stack_prompts(rows[part], sizes[part], self.config, None)
            results += self._decode(features, prompts, sizes[part], multimask=multimask)
        return results

    def _encode(self, images: Sequence[np.ndarray]) -> ImageFeatures:
        """Encodes a few images as one batch, its size rounded up to a power of two; the features of these images."""
        pixels = [_preprocess(*_padded_image(image, self.config.image_size), self.dtype) for image in images]
        pixels += [pixels[-1]] * ((1 << (len(images) - 1).bit_length()) - len(images))
        features = encode_batch(self.params, self._spread(jnp.stack(pixels)), self.config)
        return features if len(pixels) == len(images) else jax.tree.map(lambda x: x[: len(images)], features)

    def _features(self, images: Sequence[np.ndarray | EncodedImage]) -> ImageFeatures:
        """The features of a batch, new images encoded together and each once."""
        fresh = {id(image): image for image in images if not isinstance(image, EncodedImage)}
        found = self._encode(list(fresh.values())) if fresh else None
        if found is not None and len(fresh) == len(images):
            return found
        singles = {key: jax.tree.map(lambda x, i=i: x[i : i + 1], found) for i, key in enumerate(fresh)}
        parts = [i.features if isinstance(i, EncodedImage) else singles[id(i)] for i in images]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _spread(self, batch: Any) -> Any:
        """A batch spread over the mesh that the parameters are on; without one, itself."""
        mesh = mesh_of(next(iter(jax.tree.leaves(self.params)), None))
        if mesh is None:
            return batch

        def place(leaf: Any) -> jax.Array:
            axes = " ".join(["b", *"........"][: np.ndim(leaf)])
            return jax.device_put(leaf, NamedSharding(mesh, activation_spec(axes, leaf.shape, mesh.shape)))

        return jax.tree.map(place, batch)

    def _decode(
        self, features: ImageFeatures, prompts: Prompts, sizes: Sequence[tuple[int, int]], *, multimask: bool
    ) -> list[Masks]:
        """Decodes one prompt for each image and enlarges the masks."""
        features, prompts = self._spread(features), self._spread(prompts)
        logits, ious = decode_batch(self.params, features, prompts, self.config, multimask)
        clamped, ious = np.asarray(jnp.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)), np.asarray(ious)
        return [
            Masks(logits=clamped[i], masks=_enlarge(logits[i], size), iou_predictions=ious[i])
            for i, size in enumerate(sizes)
        ]


@functools.partial(jax.jit, static_argnames="config")
def encode_batch(params: Params, pixels: Float[Array, "b S S 3"], config: Sam2Config) -> ImageFeatures:
    """`sam2.model.encode_image`, compiled."""
    return encode_image(params, pixels, config)


@functools.partial(jax.jit, static_argnames=("config", "multimask"))
def decode_batch(
    params: Params, features: ImageFeatures, prompts: Prompts, config: Sam2Config, multimask: bool
) -> tuple[Float[Array, "b m s s"], Float[Array, "b m"]]:
    """Low-resolution masks and predicted IoUs of one prompt for each image, compiled."""
    predictions = decode_masks(params, features, prompts, config, multimask=multimask)
    return predictions.low_res_masks[:, 0], predictions.iou_predictions[:, 0]


@functools.partial(jax.jit, static_argnames="dtype")
def _preprocess(
    image: UInt8[Array, "H W 3"], rows: Float[Array, "S H"], cols: Float[Array, "S W"], dtype: str
) -> Float[Array, "S S 3"]:
    """Squashes the image to the model's square and normalises it, on the device, from bytes."""
    return normalise(apply_matrices(image, rows, cols)).astype(dtype)


def normalise(pixels: Real[Array, "*b S S 3"]) -> Float[Array, "*b S S 3"]:
    """Pixel values 0 to 255 as the model sees them: ImageNet mean and deviation, float32."""
    mean, std = (
        jnp.asarray(values).reshape((1,) * (pixels.ndim - 1) + (3,)) for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return (pixels.astype(jnp.float32) / 255.0 - mean) / std


@jax.jit
def _threshold(
    logits: Float[Array, "m s s"], rows: Float[Array, "H s"], cols: Float[Array, "W s"]
) -> Bool[Array, "m H W"]:
    """Enlarges the logits and keeps what is above zero."""
    return apply_matrices(logits[..., None], rows, cols)[..., 0] > 0.0


def _enlarge(logits: Float[Array, "m s s"], size: tuple[int, int]) -> Bool[np.ndarray, "m H W"]:
    """Masks at the image's size; the program is compiled for a multiple of the bucket and the excess cut off."""
    rows, cols = (
        np.pad(resize_matrix(logits.shape[-1], side, "bilinear"), ((0, -side % _SIZE_BUCKET), (0, 0)))
        for side in size
    )
    return np.asarray(_threshold(logits, rows, cols))[:, : size[0], : size[1]]


def _padded_image(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and resize matrices, padded to a multiple of the bucket; the matrices ignore the padding."""
    extra = [-length % _SIZE_BUCKET for length in image.shape[:2]]
    rows, cols = (
        np.pad(resize_matrix(length, side, "antialias"), ((0, 0), (0, more)))
        for length, more in zip(image.shape[:2], extra, strict=True)
    )
    return np.pad(image, ((0, extra[0]), (0, extra[1]), (0, 0))), rows, cols


def _checked_image(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = (
            f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        )
        raise InputError(f"image: {found}, expected uint8 [height, width, 3]; convert it to RGB bytes")
    if 0 in image.shape:
        raise InputError(
            f"image: has no pixels, its shape is {list(image.shape)}; give an image of at least one pixel"
        )
    return image


def _prompt_row(
    size: tuple[int, int],
    box_xyxy: Places | None,
    points_xy: Places | None,
    point_labels: Sequence[int] | None,
    *,
    as_given: bool,
) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
    """Corners, clicks and the pad point of one prompt, in image pixels."""
    box = None if box_xyxy is None else _places(box_xyxy, "box", (4,)).reshape(2, 2)
    count = 0 if points_xy is None else len(points_xy)
    points = _places(points_xy, "points", (count, 2)) if points_xy is not None and count else np.zeros((0, 2))
    if box is None and not count:
        raise InputError("prompt: neither a box nor points; give at least one")
    labels = [1] * count if point_labels is None else list(point_labels)
    if len(labels) != count or any(label not in (0, 1) for label in labels):
        raise InputError(f"point_labels: {labels}, expected {count} of 0 (background) or 1 (object)")
    if not as_given:
        _check_inside(box, "box", box_xyxy, size)
        _check_inside(points, "points", points_xy, size)
        if box is not None and (box[0] > box[1]).any():
            raise InputError(f"box {box_xyxy!r:.80}: its corners are swapped; give left, top, right, bottom")
    corners = np.zeros((0, 2)) if box is None else box
    corner_labels = [] if box is None else list(BOX_LABELS)
    places = np.concatenate([corners, points, np.zeros((1, 2))]).astype(np.float32)
    return places, np.array([*corner_labels, *labels, PAD_POINT], np.int32)


def _places(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Coordinates as an array of finite numbers."""
    wanted = "4 numbers: left, top, right, bottom" if name == "box" else "pairs of numbers"
    try:
        places = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} {values!r:.80}: expected {wanted}") from error
    if places.shape != shape:
        raise InputError(f"{name} {values!r:.80}: expected {wanted}")
    if not np.isfinite(places).all():
        raise InputError(f"{name} {values!r:.80}: not finite; give places in image pixels")
    return places


def _check_inside(places: np.ndarray | None, name: str, given: Any, size: tuple[int, int]) -> None:
    """Refuses places outside the image, most often a sign of another coordinate frame."""
    if places is None or not places.size:
        return
    limit = np.array([size[1], size[0]])
    if (places < 0).any() or (places > limit).any():
        raise InputError(
            f"{name} {given!r:.80}: outside the image of {size[1]}x{size[0]} pixels; give pixels of this image"
        )


def _stack_prompts(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    config: Sam2Config,
    mask_logits: np.ndarray | None,
) -> Prompts:
    """One prompt for each image, in the model's frame, padded to a common number of points."""
    count = max(len(labels) for _, labels in rows)
    count += -count % _POINT_BUCKET
    points = np.zeros((len(rows), 1, count, 2), np.float32)
    labels = np.full((len(rows), 1, count), NO_POINT, np.int32)
    for i, ((places, kinds), (height, width)) in enumerate(zip(rows, sizes, strict=True)):
        points[i, 0, : len(kinds)] = places / np.array([width, height], np.float32) * config.image_size
        labels[i, 0, : len(kinds)] = kinds
    if mask_logits is None:
        return Prompts(points, labels)
    side = config.mask_size
    if np.shape(mask_logits) != (side, side) or not np.isfinite(mask_logits).all():
        raise InputError(
            f"mask_logits: shape {np.shape(mask_logits)}, expected finite numbers of shape ({side}, {side})"
        )
    return Prompts(points, labels, np.asarray(mask_logits, np.float32)[None, None, :, :, None])
