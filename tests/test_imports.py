"""Imports within the package go one way, from what uses to what is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import effssl

# a part of the package may import parts of the layers above it in this list, and no others
LAYERS = (
    {"hints"},
    {"loss_weights", "own", "papers"},
    {"atomic", "backbones", "background", "device", "distributed", "loss_specs", "processes"}
    | {"progress", "seeding", "shown", "version"},
    {
        "batch_norm",
        "chunk_statistics",
        "foreign",
        "intervals",
        "liveness",
        "local",
        "naming",
        "optim",
        "projector",
        "timm_backbone",
    },
    {"record_cells", "record_checks", "record_tables"},
    {"records"},
    {"data", "losses", "model", "views"},
    {"transform"},
    {"evaluation"},
    {"hub"},
    {"training"},
    {"recommendation", "report"},
    {"cli"},
)
PACKAGE = Path(effssl.__file__).parent


def imports() -> Iterator[tuple[str, str, str]]:
    """Yield each file, its part of the package, and a part that it imports, in functions too."""
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "effssl" and not node.level:
                names = [f"effssl.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: import by the full name"
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("effssl."):
                    yield str(file.relative_to(PACKAGE)), part, name.split(".")[1]


def test_imports_follow_the_order_of_the_layers():
    level = {part: i for i, layer in enumerate(LAYERS) for part in layer}
    table = [edge for edge in imports() if edge[0] != "__init__.py"]  # which names all of them
    unknown = {part for _, *parts in table for part in parts} - set(level)
    assert not unknown, f"give these a layer: {sorted(unknown)}"
    against = {
        f"{file} imports {used}"
        for file, part, used in table
        if part != used and level[used] >= level[part]
    }
    assert not against, "\n".join(sorted(against))
