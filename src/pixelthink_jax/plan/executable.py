"""What a compiled program says of itself: bytes of a chip by kind, and the traffic between chips."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_ITEM_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(?:-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


@dataclass(frozen=True)
class Executable:
    """A compiled program, as its compiler describes it.

    Attributes:
        argument_bytes: Arrays it is given, of each chip.
        output_bytes: Arrays it returns.
        alias_bytes: Outputs that take the place of arguments.
        temporary_bytes: What it works with.
        peak_bytes: The most that is held at once, arguments included.
        collectives: Bytes of each chip's results by kind of exchange, loops counted as often as they turn.
        largest_in_loops: The largest result of an exchange inside a loop whose turns are not known in advance, as a
            decode loop is: bytes of a chip.
    """

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    peak_bytes: int
    collectives: Mapping[str, int]
    largest_in_loops: int = 0


def read_executable(compiled: Any, *, open_turns: int = 1) -> Executable:
    """Reads a `jax.stages.Compiled`.

    Args:
        compiled: The program.
        open_turns: How often loops turn whose end depends on data.
    """
    memory = compiled.memory_analysis()
    found = exchanges(compiled.as_text(), open_turns=open_turns)
    return Executable(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        collectives=bytes_by_kind(found),
        largest_in_loops=max((each.size for each in found if each.open_ended), default=0),
    )


@dataclass(frozen=True)
class Exchange:
    """An exchange between chips.

    Attributes:
        kind: `all-gather` and the like.
        size: Bytes that it leaves on each chip.
        turns: How often it happens in a run of the program.
        in_loop: It stands in a loop.
        open_ended: In one whose end depends on data.
    """

    kind: str
    size: int
    turns: int
    in_loop: bool
    open_ended: bool


def bytes_by_kind(found: Iterable[Exchange]) -> dict[str, int]:
    """Bytes that exchanges leave on each chip."""
    totals: dict[str, int] = dict.fromkeys(KINDS, 0)
    for each in found:
        totals[each.kind] += each.turns * each.size
    return {kind: size for kind, size in totals.items() if size}


def exchanges(text: str, *, open_turns: int = 1) -> list[Exchange]:
    """The exchanges between chips of a program.

    Args:
        text: An optimised module as HLO text.
        open_turns: How often loops turn whose end depends on data.

    >>> for each in exchanges('''
    ... %body (p: f32[4]) -> f32[4] {
    ...   %g = f32[8,2]{1,0} all-gather(%p), dimensions={0}
    ... }
    ... %cond (p: s32[]) -> pred[] {
    ...   %n = s32[] constant(28)
    ... }
    ... ENTRY %main (a: f32[4]) -> f32[4] {
    ...   %w = f32[4] while(%a), condition=%cond, body=%body
    ...   %r = bf16[16]{0} all-reduce(%a), to_apply=%add
    ... }
    ... '''):
    ...     print(each.kind, each.size, each.turns, each.in_loop)
    all-gather 64 28 True
    all-reduce 32 1 False
    """
    computations, entry = _computations(text)
    # An exchange that is spread over several fusions stands in each of them, under one channel.
    kept: dict[tuple[str, str], Exchange] = {}

    def visit(name: str, turns: int, in_loop: bool, open_ended: bool) -> None:
        for line in computations.get(name, ()):
            if found := _COLLECTIVE.search(line):
                size = _result_bytes(found[1], started="-start(" in line)
                channel = _CHANNEL.search(line)
                key = found[2], channel[1] if channel else f"{name} {line}"
                each = Exchange(found[2], size, turns, in_loop, open_ended)
                kept[key] = max(each, kept.get(key, each), key=lambda each: each.turns * each.size)
            elif loop := _LOOP.search(line):
                times = _turns(computations.get(loop[1], ()))
                visit(loop[2], turns * (times or open_turns), True, open_ended or times is None)
            else:
                called = _CALLED.findall(line)
                for branches in _BRANCHES.findall(line):
                    called += [branch.strip().lstrip("%") for branch in branches.split(",")]
                for name_ in called:
                    visit(name_, turns, in_loop, open_ended)

    visit(entry, 1, False, False)
    return list(kept.values())


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by name, and the name of the first to run."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if head := None if line.startswith(" ") else _COMPUTATION.match(line):
            lines = found[head[1]] = []
            entry = head[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    return found, entry


def _turns(condition: Any) -> int | None:
    """How often a loop turns, where its condition compares with one constant; None where data decides."""
    text = "\n".join(condition)
    constants = re.findall(r"s32\[\][^=\n]* constant\((\d+)\)", text)
    opened = "and(" in text or "reduce" in text or len(constants) != 1
    return None if opened else int(constants[0])


def _result_bytes(shapes: str, *, started: bool) -> int:
    """Bytes of a result; one that is only begun names its operands too, and the last is what comes back."""
    sizes = [
        _ITEM_BYTES.get(dtype, 0) * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _SHAPE.findall(shapes)
    ]
    return max(sizes, default=0) if started else sum(sizes)
