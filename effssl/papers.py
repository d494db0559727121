"""Publications that model cards cite. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A publication.

    Attributes:
        arxiv: Identifier on arXiv.
        bibtex: Entry for a bibliography.
    """

    arxiv: str
    bibtex: str


METHOD = Paper(  # small projectors and many views, for every loss
    arxiv="2312.10725",
    bibtex="""@inproceedings{agrawal2024harnessing,
  title={Harnessing small projectors and multiple views for efficient vision pretraining},
  author={Agrawal, Kumar Krishna and Ghosh, Arna and Sodhani, Shagun and Oberman, Adam and
    Richards, Blake},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
)
BARLOW_TWINS = Paper(
    arxiv="2103.03230",
    bibtex="""@inproceedings{zbontar2021barlow,
  title={Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author={Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
)
VICREG = Paper(
    arxiv="2105.04906",
    bibtex="""@inproceedings{bardes2022vicreg,
  title={{VICReg}: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author={Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle={International Conference on Learning Representations},
  year={2022}
}""",
)
SIMCLR = Paper(
    arxiv="2002.05709",
    bibtex="""@inproceedings{chen2020simple,
  title={A Simple Framework for Contrastive Learning of Visual Representations},
  author={Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle={International Conference on Machine Learning},
  year={2020}
}""",
)
LEJEPA = Paper(
    arxiv="2511.08544",
    bibtex="""@misc{balestriero2025lejepa,
  title={{LeJEPA}: Provable and Scalable Self-Supervised Learning Without the Heuristics},
  author={Balestriero, Randall and LeCun, Yann},
  year={2025},
  eprint={2511.08544},
  archivePrefix={arXiv}
}""",
)
EMP_SSL = Paper(
    arxiv="2304.03977",
    bibtex="""@misc{tong2023empssl,
  title={{EMP-SSL}: Towards Self-Supervised Learning in One Training Epoch},
  author={Tong, Shengbang and Chen, Yubei and Ma, Yi and LeCun, Yann},
  year={2023},
  eprint={2304.03977},
  archivePrefix={arXiv}
}""",
)
W_MSE = Paper(
    arxiv="2007.06346",
    bibtex="""@inproceedings{ermolov2021whitening,
  title={Whitening for Self-Supervised Representation Learning},
  author={Ermolov, Aleksandr and Siarohin, Aliaksandr and Sangineto, Enver and Sebe, Nicu},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
)
