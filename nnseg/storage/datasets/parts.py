"""Parts of a split, and the words that mean them in names of folders, in lists and in tables."""

from __future__ import annotations

TRAINING, VALIDATION, TEST = "", "validation", "test"
"""Parts besides "fold 0" ...: trained on in all folds; held out in the only fold; neither."""

PARTS = {
    **dict.fromkeys(("training", "train", "tr"), TRAINING),
    **dict.fromkeys(("validation", "valid", "val", "va", "dev", "held_out"), VALIDATION),
    **dict.fromkeys(("testing", "test", "ts"), TEST),
}
"""Parts by the words for them."""
