"""ShapeReason: an endless, deterministic reasoning-segmentation data set of drawn scenes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from pixelthink_jax.data.shapes.asking import BY_LEVEL, HELD_OUT, Structure, propose
from pixelthink_jax.data.shapes.chains import (
    BRIEF,
    LIST_QUERY,
    STYLES,
    chain,
    finding,
    listing,
    pointing,
    sample_style,
)
from pixelthink_jax.data.shapes.difficulty import Difficulty, distractors, score
from pixelthink_jax.data.shapes.queries import Query, Trace
from pixelthink_jax.data.shapes.render import render, render_mask
from pixelthink_jax.data.shapes.scene import (
    CANVASES,
    HELD_OUT_PAIRS,
    OBJECT_COUNTS,
    SceneGraph,
    in_tens,
    observe,
    sample_scene,
)
from pixelthink_jax.data.shapes.wording import ask
from pixelthink_jax.data.targets import completion_text, difficulty_level, solution_text
from pixelthink_jax.types import Example, Level

TASKS = ("reason", "listing", "pointing", "finding")
SPLIT_SIZES: dict[str, int] = {"train": 1_000_000, "validation": 500, "tuning": 500, "test": 1000, "ood": 500}
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")
OVERLAP = {"easy": 0.15, "medium": 0.25, "hard": 0.4}
BRIEF_SHARE = 0.12
NEIGHBOUR_SHARE = 0.08
"""Share of rows that first try a structure of the next easier level, so that structure is not level."""

SCENES_PER_STRUCTURE = 12


@dataclass(frozen=True)
class Asked:
    """A question about a scene, its answer and difficulty; `novelty` is what is out of distribution."""

    graph: SceneGraph
    query: Query
    trace: Trace
    difficulty: Difficulty
    novelty: str | None = None


class ShapeReason:
    """Random-access rows of the shape world; row `i` depends on (seed, split, i) only.

    Args:
        split: One of `SPLIT_SIZES`; `train` is effectively endless.
        seed: World seed. The splits of one seed never share a scene.
        task: `reason`; or a dense target of pre-training: `listing` names every object with its place, left
            to right; `pointing` asks for objects by words that fit them alone and says these again with their
            boxes; `finding` asks for one such object and gives nothing but its box.
        chain_style: Force the style of the reasoning chain; None draws it (`chains.STYLES`).
        level: Of the reason task, questions of that level only; None draws it.
        brief: Of the reason task, every row asks for brevity; else a share of the training rows without a forced style.
        most_objects: Of the dense tasks, scenes of at most that many objects; None means scenes as usual.
        render_size: Width and height of the picture and the mask; None means the scene's canvas. Box, points,
            chain and solution always come from the canvas, so they do not depend on it.

    Raises:
        ValueError: The split, task or style has no such name.

    >>> row = ShapeReason("test", seed=0)[0]
    >>> row.completion.startswith("<think>"), row.solution.startswith("<box>(")
    (True, True)
    """

    def __init__(
        self,
        split: str,
        *,
        seed: int = 0,
        task: str = "reason",
        chain_style: str | None = None,
        level: str | None = None,
        brief: bool = False,
        render_size: tuple[int, int] | None = None,
        most_objects: int | None = None,
    ):
        """See the class."""
        for name, value, known in (
            ("split", split, tuple(SPLIT_SIZES)),
            ("task", task, TASKS),
            ("chain_style", chain_style, (None, *STYLES)),
            ("level", level, (None, *LEVELS)),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; expected one of {known}")
        if most_objects is not None and (task == "reason" or most_objects < 1):
            raise ValueError(f"most_objects={most_objects}: expected at least 1, and a task that lists")
        self.split, self.seed, self.task = split, seed, task
        self.chain_style, self.level, self.brief = chain_style, level, brief
        self.render_size, self.most_objects = render_size, most_objects

    def __len__(self) -> int:
        """Number of rows of the split."""
        return SPLIT_SIZES[self.split]

    def __repr__(self) -> str:
        """Name, seed and task."""
        return f"ShapeReason({self.split!r}, seed={self.seed}, task={self.task!r})"

    def __getitem__(self, index: int) -> Example:
        """One row."""
        index = self._checked(index)
        if self.task != "reason":
            return self._listing(index)
        asked = self.asked(index)
        return self._example(asked, f"{self.split}-{self.seed}-{index}", self._rng(index, "text"))

    def __iter__(self) -> Iterator[Example]:
        """All rows in order."""
        return (self[i] for i in range(len(self)))

    def asked(self, index: int) -> Asked:
        """The scene graph and question of a row, before anything is drawn or written."""
        rng = self._rng(self._checked(index), "scene")
        drawn = LEVELS[int(rng.integers(3))]
        level = drawn if self.level is None else cast(Level, self.level)
        count = int(rng.choice(OBJECT_COUNTS))
        return _sample_asked(rng, level, count, ood=self.split == "ood")

    def listed(self, index: int) -> SceneGraph:
        """The scene of a row of the listing task."""
        rng = self._rng(self._checked(index), "listing")
        counts = OBJECT_COUNTS if self.most_objects is None else range(1, self.most_objects + 1)
        count, level = int(rng.choice(counts)), LEVELS[int(rng.integers(3))]
        while True:
            scene = sample_scene(rng, count=count, canvas=_canvas(rng), overlap=OVERLAP[level])
            graph = observe(scene)
            if graph is not None:
                return graph

    def scene_examples(self, index: int, *, limit: int = 6) -> list[Example]:
        """Up to `limit` different questions about the scene of a row, its own first."""
        index = self._checked(index)
        first = self.asked(index)
        asked, rng = {(first.query.type, first.trace.answer): first}, self._rng(index, "more")
        structures = [structure for level in LEVELS for structure in BY_LEVEL[level]]
        for round_ in range(2 * len(structures)):
            if len(asked) >= limit:
                break
            for query, trace in propose(structures[round_ % len(structures)], first.graph, rng):
                if (query.type, trace.answer) not in asked:
                    more = Asked(first.graph, query, trace, score(query, trace, first.graph), first.novelty)
                    asked[query.type, trace.answer] = more
                    break
        name = f"{self.split}-{self.seed}-{index}"
        return [
            self._example(item, f"{name}-{k}" if k else name, self._rng(index, f"text{k}" if k else "text"))
            for k, item in enumerate(asked.values())
        ]

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self!r}")
        return index % len(self)

    def _rng(self, index: int, stream: str) -> np.random.Generator:
        """Independent stream of a row: the scene does not change when its text does."""
        name = f"{self.seed}/{self.split}/{index}/{stream}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little"))

    def _example(self, asked: Asked, name: str, rng: np.random.Generator) -> Example:
        words = ask(asked.query, rng)
        drawn = rng.random() < BRIEF_SHARE and self.split == "train" and self.chain_style is None
        brief = self.brief or drawn
        style = self.chain_style or sample_style(rng, brief=brief)
        thinking = chain(asked.query, asked.trace, asked.graph, style, rng)
        return self._row(asked, name, words, thinking, style, BRIEF if brief else None)

    def _listing(self, index: int) -> Example:
        """What is where, and no question: so no solution, mask or difficulty."""
        graph = self.listed(index)
        query, text = LIST_QUERY, listing(graph)
        if self.task != "listing":
            write = pointing if self.task == "pointing" else finding
            query, text = write(graph, self._rng(index, "text"))
        return Example(
            id=f"{self.split}-{self.seed}-{index}-{self.task}",
            image=render(graph.scene, self.render_size),
            query=query,
            completion=text,
            metadata={"objects": len(graph.objects), "canvas": [graph.scene.width, graph.scene.height]},
        )

    def _row(
        self, asked: Asked, name: str, words: str, thinking: str, style: str, instruction: str | None
    ) -> Example:
        graph, answer, difficulty = asked.graph, asked.trace.answer, asked.difficulty
        scene, item = graph.scene, graph.objects[answer]
        points = graph.points(answer)
        first, second = ((in_tens(x), in_tens(y)) for x, y in points)
        mask = graph.mask(answer)
        if self.render_size is not None:
            mask = render_mask(scene, scene.shapes.index(item.shape), self.render_size)
        return Example(
            id=name,
            image=render(scene, self.render_size),
            query=words,
            solution=solution_text(item.box, points),
            mask=mask,
            difficulty=difficulty.mean,
            level=difficulty_level(difficulty.mean),
            completion=completion_text(thinking, item.said_box, (first, second)),
            instruction=instruction,
            metadata={
                **asdict(difficulty),
                "query_type": asked.query.type,
                "hops": asked.query.hops,
                "style": style,
                "thinking_words": len(thinking.split()),
                "objects": len(graph.objects),
                "target_visible": round(item.visible, 3),
                "novelty": asked.novelty,
                "canvas": [scene.width, scene.height],
            },
        )


def _canvas(rng: np.random.Generator) -> tuple[int, int]:
    return CANVASES[int(rng.integers(len(CANVASES)))]


def _sample_asked(rng: np.random.Generator, level: Level, count: int, *, ood: bool) -> Asked:
    """Scenes and questions until one has the wanted level; the object count is kept, so it tells nothing."""
    while True:
        structure, held_out = _sample_structure(rng, level, ood=ood)
        for _ in range(SCENES_PER_STRUCTURE):
            scene = sample_scene(
                rng, count=count, canvas=_canvas(rng), overlap=OVERLAP[level], held_out=held_out
            )
            graph = observe(scene)
            if graph is None:
                continue
            for query, trace in propose(structure, graph, rng):
                target = graph.objects[trace.answer].shape
                if held_out is not None and (target.colour, target.kind) != held_out:
                    continue
                difficulty = score(query, trace, graph)
                if difficulty_level(difficulty.mean) == level and distractors(graph, trace.answer):
                    novelty = query.type if ood and held_out is None else " ".join(held_out or ()) or None
                    return Asked(graph, query, trace, difficulty, novelty)


def _sample_structure(
    rng: np.random.Generator, level: Level, *, ood: bool
) -> tuple[Structure, tuple[str, str] | None]:
    """A question structure for a level, and the held-out pair the target must be, if any."""
    if ood and level in HELD_OUT and rng.random() < 0.5:
        choices = HELD_OUT[level]
        return choices[int(rng.integers(len(choices)))], None
    source = level
    if level != "easy" and rng.random() < NEIGHBOUR_SHARE:
        source = LEVELS[LEVELS.index(level) - 1]
    choices = BY_LEVEL[source]
    pairs = sorted(HELD_OUT_PAIRS)
    return choices[int(rng.integers(len(choices)))], pairs[int(rng.integers(len(pairs)))] if ood else None


def metadata_text(example: Example) -> str:
    """An example's metadata as JSON, for storage and logs."""
    return json.dumps(example.metadata, sort_keys=True)
