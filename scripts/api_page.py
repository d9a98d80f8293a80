"""Write docs/api.md: every public name, with its call and what it is in one line.

    python scripts/api_page.py            writes the page
    python scripts/api_page.py --check    exit code 1 where the page is not what would be written
    python scripts/api_page.py --gaps     public functions whose docstring lacks Args or Returns

A name is public if it stands in the `__all__` of a package, or if one of the other `ROOMS` defines
it without an underscore. `TOPICS` says where a reader meets a name first; names of no topic stand
below, so that a new one is never missing.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
ROOMS = (
    "diffeat", "diffeat.images", "diffeat.targets", "diffeat.recipes", "diffeat.backbones",
    "diffeat.extraction", "diffeat.store", "diffeat.vision", "diffeat.adapt", "diffeat.search",
    "diffeat.search.analysis", "diffeat.viz", "diffeat.coords", "diffeat.errors", "diffeat.threads",
    "diffeat.engines", "probes", "probes.metrics", "probes.aggregate", "probes.objectives",
    "benchmarks.catalogue", "benchmarks.run", "benchmarks.report", "benchmarks.tasks",
    "benchmarks.speed", "benchmarks.faults",
)  # fmt: skip
"""In this order; packages with an `__all__` that are not named here come behind them."""
LEFT_OUT = ("diffeat.cli",)
"""What is for the command line alone."""
WIDTH = 88
"""Characters of a call; optional parameters beyond are told as `…`."""

TOPICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Load a model": (
        """
        backbone = diffeat.load("unet-cifar10", device="cpu")
        [block.name for block in backbone.blocks][:3]
        """,
        "The model is a bundled or a known one, a pipeline folder, a hub id, or a vision model "
        "([vision.md](vision.md)).",
        ("diffeat.load", "diffeat.Backbone", "diffeat.BlockInfo", "diffeat.backbones.FAMILIES",
         "diffeat.backbones.bundled_models", "diffeat.backbones.ModelRequest",
         "diffeat.vision.load_vision", "diffeat.vision.VisionModel", "diffeat.set_threads"),
    ),
    "Pictures and what they are labelled": (
        """
        source = diffeat.open_source("digits").limit(60)
        source.ids[:2], source.class_names[:3], source.load(0).size
        """,
        "Folders, globs, lists, tars and data sets ([README](../README.md#on-the-command-line)); "
        "labels of tables in [targets.md](targets.md).",
        ("diffeat.open_source", "diffeat.images.Source", "diffeat.images.ArraySource",
         "diffeat.images.read_captions", "diffeat.images.decode", "diffeat.images.fit_picture",
         "diffeat.targets.labels_for", "diffeat.targets.open_targets", "diffeat.targets.Targets"),
    ),
    "Extract": (
        """
        spec = diffeat.ExtractSpec(timesteps=(20, 60), blocks=("mid", "up.1"), pool="2x2")
        features = diffeat.extract(backbone, [source.load(k) for k in range(4)], spec)
        features["up.1", 20].shape
        """,
        "Into memory here, into a file below. What a spec can say: "
        "[conditions.md](conditions.md); what a tensor is called: [tensors.md](tensors.md).",
        ("diffeat.ExtractSpec", "diffeat.extract", "diffeat.Features", "diffeat.load_recipe",
         "diffeat.recipes.recipe_names", "diffeat.recipes.Recipe", "diffeat.massive_channels",
         "diffeat.HookManager", "diffeat.Tap"),
    ),
    "Files of features": (
        """
        diffeat.extract_to_file(backbone, source, spec, "features.h5", progress=False)
        store = diffeat.FeatureStore("features.h5")
        store["up.1", 20][:10].shape, store.labels[:10]
        """,
        "The same call goes on after an interruption. What stands in a file: "
        "[README](../README.md#the-file); many machines: [scale.md](scale.md).",
        ("diffeat.extract_to_file", "diffeat.FeatureStore", "diffeat.store.merge_files",
         "diffeat.store.verify"),
    ),
    "Heads": (
        """
        X, y = store["up.1", 20][:], store.labels
        head = probes.LinearProbe(C=0.01).fit(X, y)
        probes.save(head, "head.safetensors")
        probes.load("head.safetensors").predict(X)[:5]
        """,
        "Estimators with scikit-learn's manners ([heads.md](heads.md)).",
        ("probes.LinearProbe", "probes.RidgeProbe", "probes.KNNProbe", "probes.MLPProbe",
         "probes.BatchNormProbe", "probes.ConvProbe", "probes.AttentionProbe",
         "probes.DifFormerProbe", "probes.aggregate.MixerProbe", "probes.NoiseConditionalProbe",
         "probes.RidgeRegressionProbe", "probes.MLPRegressionProbe",
         "probes.RidgeMultilabelProbe", "probes.LinearMultilabelProbe",
         "probes.MLPMultilabelProbe", "probes.ManyLogistic", "probes.ManyRidge", "probes.Cells",
         "probes.preset", "probes.PRESETS", "probes.save", "probes.load", "probes.HeadError",
         "probes.NetworkHead", "probes.Objective"),
    ),
    "Metrics": (
        """
        from probes import metrics

        metrics.accuracy_score(y, head.predict(X)), metrics.f1_score(y, head.predict(X))
        metrics.linear_cka(X, store["mid", 20][:])
        """,
        "Functions by scikit-learn's names, accumulators for batches, and what two representations "
        "have in common ([analysis.md](analysis.md)).",
        ("probes.metrics.*",),
    ),
    "Search for (t, block), keep the head, apply it": (
        """
        from diffeat import search

        judge = search.Classification(search.task_from_store(store), "ridge")
        report = search.run_search(judge, search.SearchOptions())
        search.keep_head(judge, report.choice, "best.safetensors")
        """,
        "Strategies and what they find: [search.md](search.md); heads that are kept: "
        "[heads.md](heads.md#heads-that-are-kept).",
        ("diffeat.search.task_from_store", "diffeat.search.live_task", "diffeat.search.run_search",
         "diffeat.search.SearchOptions", "diffeat.search.SearchReport",
         "diffeat.search.probe_surface", "diffeat.search.greedy_sets",
         "diffeat.search.best_pairs", "diffeat.search.repeat_surface",
         "diffeat.search.successive_halving", "diffeat.search.run_bandit",
         "diffeat.search.train_mixer", "diffeat.search.frequency_guess",
         "diffeat.search.Judge", "diffeat.search.Classification", "diffeat.search.Task",
         "diffeat.search.keep_head", "diffeat.search.load_head", "diffeat.search.about_head",
         "diffeat.search.made_of", "diffeat.search.write_best_spec"),
    ),
    "Compare representations": (
        """
        from diffeat.search.analysis import align_features

        table = align_features(store, store["mid", 20][:], k=5)
        table.best("cka").block
        """,
        "With a vision model or another file, cell by cell ([analysis.md](analysis.md)).",
        ("diffeat.search.analysis.align_features", "diffeat.search.analysis.choose_rows",
         "diffeat.search.analysis.pictures_of", "diffeat.search.analysis.AlignmentTable"),
    ),
    "Train through the backbone": (
        """
        from diffeat.adapt import FineTuning

        tuned = FineTuning(backbone, "mid", 20, unfreeze=None, epochs=1).fit(source)
        tuned.score(source)
        """,
        "Pictures in, gradients through the denoiser; `unfreeze` says from where on "
        "([training.md](training.md)).",
        ("diffeat.adapt.*",),
    ),
    "Look at it": (
        """
        from diffeat import viz

        maps = diffeat.extract(backbone, [source.load(0)], diffeat.ExtractSpec(20, ("up.1",)))
        viz.pca_rgb(maps["up.1", 20].numpy()).shape
        """,
        "Colours of feature maps, and heat maps over (t, block).",
        ("diffeat.viz.*",),
    ),
    "Benchmarks": (
        """
        from benchmarks.catalogue import benchmark_names, open_benchmark

        benchmark_names()[:2], open_benchmark("digits").title
        """,
        "Data files that are run: [benchmarks.md](benchmarks.md).",
        ("benchmarks.catalogue.*", "benchmarks.run.*", "benchmarks.report.*",
         "benchmarks.tasks.*", "benchmarks.speed.*", "benchmarks.faults.*"),
    ),
    "Errors": (
        """
        try:
            diffeat.load("unet-cifar")
        except diffeat.DiffeatError as error:
            print(error)  # model 'unet-cifar' is unknown (did you mean 'unet-cifar10' …
        """,
        "What goes wrong has one base; the message says what, what was expected, what to do.",
        ("diffeat.DiffeatError", "diffeat.errors.*"),
    ),
}  # fmt: skip
"""Heading → an example, what it is about, and its names (`room.*`: all of a room)."""

OPENING = """# Public names

One line each, from the docstring; `help(name)` says the rest: shapes, dtypes, units, errors,
source. Written by `python scripts/api_page.py`, and compared with the code by the tests.

Public are the names that stand in the `__all__` of these rooms, or that a room of one module
defines without an underscore: {rooms}.
All other modules may change without notice. Optional parameters that do not fit are told as `…`;
a `*` begins those that are given by name. Every example goes on from those before it, and the
first begins with

```python
import diffeat
import probes
```
"""


def all_rooms() -> list[str]:
    """`ROOMS`, and every other package that has an `__all__`."""
    root = PAGE.parents[1]
    inits = [path for top in ("diffeat", "probes", "benchmarks")
             for path in sorted((root / top).rglob("__init__.py"))]  # fmt: skip
    packages = [".".join(path.parent.relative_to(root).parts) for path in inits]
    more = [name for name in packages if name not in (*ROOMS, *LEFT_OUT)
            and hasattr(importlib.import_module(name), "__all__")]  # fmt: skip
    return [*ROOMS, *more]


def public_names(room: str) -> list[str]:
    """Names of a room: its `__all__`, or what a module, or the modules of a package, define."""
    module = importlib.import_module(room)
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=str.lower)
    made = [name for name, value in vars(module).items() if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and f"{value.__module__}.".startswith(f"{room}.")]  # fmt: skip
    return sorted(made, key=str.lower)


def every_name() -> dict[str, Any]:
    """Full name → object, once each: a thing of two rooms goes by the first room."""
    found: dict[str, Any] = {}
    seen: dict[int, str] = {}
    for room in all_rooms():
        module = importlib.import_module(room)
        for name in public_names(room):
            value = getattr(module, name)
            shared = inspect.isclass(value) or inspect.isfunction(value)
            if shared and id(value) in seen:
                continue
            seen[id(value)] = room
            found[f"{room}.{name}"] = value
    return found


def summary(full: str, value: Any) -> str:
    """What a thing is: its docstring's first line; of a constant the text below its assignment."""
    if inspect.isclass(value) or inspect.isfunction(value):
        text = inspect.getdoc(value) if value.__doc__ else ""
    else:
        text = _text_below(*full.rpartition(".")[::2]) or _shown(full, value)
    return " ".join(text.split("\n\n")[0].split()) if text else ""


def _shown(full: str, value: Any) -> str:
    """A short constant as it is written."""
    if full.endswith(".__version__"):
        return "The installed version."
    return f"`{value!r}`" if len(repr(value)) <= 100 else ""


def _text_below(room: str, name: str) -> str:
    """The text that stands below the assignment of a constant, wherever it was imported from."""
    tree = ast.parse(Path(importlib.import_module(room).__file__).read_text("utf-8"))
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.ImportFrom) and any(
            name == (a.asname or a.name) for a in node.names
        ):
            [original] = [a.name for a in node.names if name == (a.asname or a.name)]
            return _text_below(node.module, original)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            text = after.value if isinstance(after, ast.Expr) else None
            told = isinstance(text, ast.Constant) and isinstance(text.value, str)
            return text.value if told else ""
    return ""


def call(name: str, value: Any) -> str:
    """A call with its parameters and defaults, as far as they fit; a constant's name."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return name
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:  # of exceptions, which have none of their own
        return name
    parts: list[str] = []
    star = False
    for one in parameters:
        prefix = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        part = f"{prefix}{one.name}{_default(one)}"
        needed = one.default is one.empty and not prefix
        if one.kind == one.KEYWORD_ONLY and not star:
            part, star = f"*, {part}", True
        star |= one.kind == one.VAR_POSITIONAL
        if not needed and len(f"{name}({', '.join([*parts, part])})") > WIDTH:
            parts.append("…")
            break
        parts.append(part)
    return f"{name}({', '.join(parts)})"


def _default(one: inspect.Parameter) -> str:
    """`=value` where a default is short and the same everywhere; `=…` of objects."""
    if one.default is one.empty:
        return ""
    plain = (bool, int, float, str, type(None))
    values = one.default if isinstance(one.default, tuple) else (one.default,)
    same = all(type(value) in plain for value in values)
    return f"={one.default!r}" if same and len(repr(one.default)) <= 30 else "=…"


def row(full: str, value: Any) -> str:
    """A line of the page."""
    text = summary(full, value).replace("|", "\\|")
    shown = call(full.rpartition(".")[2], value).replace("|", "\\|")
    return f"| `{full.rpartition('.')[0]}` | `{shown}` | {text} |"


def matching(wanted: str, names: dict[str, Any]) -> list[str]:
    """Names of an entry of `TOPICS`; ValueError if it names nothing."""
    if wanted.endswith(".*"):
        found = [name for name in names if name.rpartition(".")[0] == wanted[:-2]]
    else:
        found = [wanted] if wanted in names else []
    if not found:
        raise ValueError(f"{wanted} of TOPICS is no public name; public rooms are {all_rooms()}")
    return found


def page() -> str:
    """The whole text."""
    names = every_name()
    left = dict(names)
    rooms = fill(", ".join(f"`{room}`" for room in all_rooms()), 100)
    lines = [OPENING.format(rooms=rooms)]
    for heading, (example, about, wanted) in TOPICS.items():
        lines += [f"## {heading}", "", about, ""]
        if example:
            lines += ["```python", inspect.cleandoc(example), "```", ""]
        chosen = [name for one in wanted for name in matching(one, names) if name in left]
        lines += _table(chosen, left)
    lines += ["## All others, for those who build on it", "",
              "What the rooms offer each other and to programs of your own.", ""]  # fmt: skip
    lines += _table(list(left), left)
    return "\n".join(lines).rstrip() + "\n"


def _table(chosen: list[str], left: dict[str, Any]) -> list[str]:
    rows = [row(name, left.pop(name)) for name in chosen]
    return ["| in | name | what it is |", "|---|---|---|", *rows, ""]


def gaps() -> list[str]:
    """Public functions whose docstring lacks Args or Returns where there is something to say."""
    found = []
    for full, value in every_name().items():
        if not inspect.isfunction(value):
            continue
        text = inspect.getdoc(value) or ""
        signature = inspect.signature(value)
        lacking = ["Args"] if len(signature.parameters) > 1 and "Args:" not in text else []
        gives = signature.return_annotation not in (None, "None", inspect.Signature.empty)
        lacking += ["Returns"] if gives and "Returns:" not in text else []
        if lacking:
            found.append(f"{full}: {', '.join(lacking)}")
    return found


def main() -> int:
    """Write or check the page; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--gaps", action="store_true", help="list what docstrings lack")
    options = parser.parse_args()
    if options.gaps:
        print("\n".join(gaps()))
        return 0
    text = page()
    if options.check:
        same = PAGE.is_file() and PAGE.read_text("utf-8") == text
        print("the page is up to date" if same else "run python scripts/api_page.py")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {text.count(chr(10))} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
