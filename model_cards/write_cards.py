"""Write the card of every model in this folder and in the package, and their list.

    python model_cards/write_cards.py

A model's folder has the config.json and training.json of its model folder, from which card and
figures are made. examples/reproduce writes these, and results.csv with the numbers of all runs.
"""

from pathlib import Path

import effssl
from effssl.hub._card import compose_card, write_card
from effssl.hub._folder import read_training
from effssl.hub._model_config import read_config

CARDS = Path(__file__).parent
PACKAGED = Path(effssl.__file__).parent / "pretrained"


def models() -> list[Path]:
    """Return the folders that have a card."""
    folders = [path.parent for top in (CARDS, PACKAGED) for path in top.glob("*/config.json")]
    return sorted(folders, key=lambda folder: folder.name)


def list_of_models() -> str:
    """Return the text of README.md in this folder."""
    lines = [
        "# Models that programs of this repository make",
        "",
        "Each folder holds the card and what it is made from. The weights of those in the package",
        "are there too, the others are made again by the command in the card. Written by",
        "`python model_cards/write_cards.py`.",
        "",
        "| model | images | backbone | minutes |",
        "|---|---|---|--:|",
    ]
    for folder in models():
        config, training = read_config(folder), read_training(folder)
        where = "../effssl/pretrained/" if folder.parent == PACKAGED else ""
        link = f"[{folder.name}]({where}{folder.name}/README.md)"
        cells = [link, training["config"]["dataset"], config.architecture, str(training["minutes"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for folder in models():
        write_card(folder, compose_card(folder, f"org/{folder.name}"))
    (CARDS / "README.md").write_text(list_of_models())
