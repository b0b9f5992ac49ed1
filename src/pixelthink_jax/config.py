"""Strict YAML over frozen dataclasses: the one way a run is configured.

A run config is a frozen dataclass that validates itself in `__post_init__`. `load_config` reads a YAML file
over its defaults, checks every key and type, and names the file, the key and the nearest valid key when
something is wrong. Run configs live beside the code they configure (`sft.SftConfig`,
`train_segmenter.SegmenterConfig`).
"""

import dataclasses
import difflib
import types as pytypes
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pixelthink_jax.errors import InputError

T = TypeVar("T")
_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which may come several times


def load_config(cls: type[T], path: str | Path) -> T:
    """Reads a YAML file into the frozen dataclass `cls`.

    Raises:
        InputError: The file is missing or not YAML, a key is unknown, a value has the wrong type, or the
            dataclass refuses the combination.
    """
    return from_tree(cls, read_tree(path), where=f"config {path}")


def read_tree(path: str | Path) -> Any:
    """A YAML file as nested dictionaries; an empty one is an empty mapping.

    Raises:
        InputError: The file is missing or not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"config {path}: no such file; give the path of a YAML run config (see configs/)")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise InputError(f"config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"config {path}: not UTF-8 text: {error}") from error
    return {} if tree is None else tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key written twice is an error: plain YAML would take the last value in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping whose keys differ."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def from_tree(cls: type[T], tree: Any, *, where: str = "config") -> T:
    """Builds the dataclass `cls` from nested dictionaries, as YAML gives them.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Optim:
    ...     learning_rate: float = 1e-3
    >>> from_tree(Optim, {"learning_rate": 1})
    Optim(learning_rate=1.0)
    >>> from_tree(Optim, {"learning_rat": 1})
    Traceback (most recent call last):
    ...
    pixelthink_jax.errors.InputError: config: unknown key 'learning_rat'; did you mean 'learning_rate'?
    """
    if not isinstance(tree, dict):
        raise InputError(f"{where}: expected a mapping of settings, got {type(tree).__name__} {tree!r:.80}")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}; {_nearest(str(key), list(fields))}")
        values[key] = _coerce(value, hints[key], f"{where}: {key}")
    missing = [n for n, f in fields.items() if n not in values and _required(f)]
    if missing:
        raise InputError(f"{where}: missing key {missing[0]!r}, which has no default")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def to_tree(config: Any) -> Any:
    """The dataclass as plain nested dictionaries and lists, ready for YAML or JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_tree(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_tree(item) for item in config]
    if isinstance(config, dict):
        return {key: to_tree(value) for key, value in config.items()}
    return config


def laid_over(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with others in their place; a mapping that names another `kind` replaces the whole one.

    >>> laid_over({"optim": {"kind": "adamw", "beta1": 0.9}}, {"optim": {"beta1": 0.8}})
    {'optim': {'kind': 'adamw', 'beta1': 0.8}}
    >>> laid_over({"penalty": {"kind": "clipped", "slope": 0.1}}, {"penalty": {"kind": "none"}})
    {'penalty': {'kind': 'none'}}
    """
    merged = dict(tree)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            whole = value.get("kind", old.get("kind")) != old.get("kind")
            merged[key] = value if whole else laid_over(old, value)
        else:
            merged[key] = value
    return merged


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nearest(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid keys are {', '.join(sorted(names))}"


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Checks `value` against a type hint; integers widen to floats, lists become tuples."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, pytypes.UnionType):
        return _coerce_union(value, get_args(hint), where)
    if origin is Literal:
        if value not in get_args(hint):
            raise InputError(
                f"{where}: got {value!r}, expected one of {', '.join(map(repr, get_args(hint)))}"
            )
        return value
    if origin is tuple:
        return _coerce_tuple(value, get_args(hint), where)
    if origin is dict:
        return _coerce_dict(value, get_args(hint), where)
    if dataclasses.is_dataclass(hint):
        return from_tree(hint, value, where=where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _is_number(value):
        return float(value)  # YAML 1.1 reads 1e-5, written without a dot, as text
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where}: got {value!r} ({type(value).__name__}), expected {hint.__name__}")
    return value


def _coerce_union(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    if value is None:
        if type(None) in hints:
            return None
        raise InputError(f"{where}: must not be empty")
    options = [hint for hint in hints if hint is not type(None)]
    if isinstance(value, dict) and all(_kind_of(option) for option in options):
        return _coerce_kind(value, options, where)
    errors = []
    for hint in options:
        try:
            return _coerce(value, hint, where)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _kind_of(hint: Any) -> str | None:
    """The name by which a config picks this dataclass among several: the default of its field `kind`."""
    fields = dataclasses.fields(hint) if dataclasses.is_dataclass(hint) else ()
    return next((f.default for f in fields if f.name == "kind" and isinstance(f.default, str)), None)


def _coerce_kind(value: dict[Any, Any], options: list[Any], where: str) -> Any:
    """The dataclass of the union that `kind` names; without `kind`, the first."""
    kinds = {_kind_of(option): option for option in options}
    kind = value.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise InputError(f"{where}: kind: got {kind!r}, expected one of {', '.join(map(repr, kinds))}")
    return _coerce(value, kinds[kind], where)


def _coerce_tuple(value: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: got {value!r}, expected a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_coerce(item, hints[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(hints):
        raise InputError(f"{where}: got {len(value)} values {value!r}, expected {len(hints)}")
    return tuple(_coerce(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, hints, strict=True)))


def _coerce_dict(value: Any, hints: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: got {value!r}, expected a mapping")
    key_hint, value_hint = hints
    return {_coerce(k, key_hint, where): _coerce(v, value_hint, f"{where}.{k}") for k, v in value.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
