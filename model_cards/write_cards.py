"""Write the card of every model in this folder, and the list of them.

    python model_cards/write_cards.py

A model has a folder with the config.json and training.json of its model folder, from which its card
and figures are made; its numbers are those of results.csv, which the programs in benchmarks/ write.
"""

from pathlib import Path

from effssl.hub.card import compose_card, write_card
from effssl.hub.folder import read_training
from effssl.hub.model_config import read_config

CARDS = Path(__file__).parent


def list_of_models() -> str:
    """README.md of this folder."""
    lines = [
        "# Models that programs of this repository make",
        "",
        "Each folder holds the card and what it is made from; the weights are made again by the",
        "command in the card. Written by `python model_cards/write_cards.py`.",
        "",
        "| model | images | backbone | minutes |",
        "|---|---|---|--:|",
    ]
    for folder in sorted(path.parent for path in CARDS.glob("*/config.json")):
        config, training = read_config(folder), read_training(folder)
        lines.append(
            f"| [{folder.name}]({folder.name}/README.md) | {training['config']['dataset']} | "
            f"{config.architecture} | {training['minutes']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for folder in CARDS.glob("*/config.json"):
        write_card(folder.parent, compose_card(folder.parent, f"org/{folder.parent.name}"))
    (CARDS / "README.md").write_text(list_of_models())
