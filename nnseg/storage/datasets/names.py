"""Words in the names of files and folders: which of them mark images, label maps, parts of a split, and what is neither."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nnseg.storage.datasets.items import Item, Named, Role, divide
from nnseg.storage.datasets.parts import PARTS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABEL_WORDS = _words(
    "label labels mask masks msk segmentation segmentations seg segs segm dseg annotation annotations annotated annot anno "
    "gt gts groundtruth truth manual contour contours delineation delineations"
)
"""Words that mark a label map, in names of files and of folders."""

KIND_WORDS = _words("gtv gtvt gtvn gtvp ctv ptv brainmask")
"""Words that mark a label map in names of files, and say what it shows: volumes of radiotherapy, the brain."""

END_WORDS = (
    LABEL_WORDS | KIND_WORDS - {"manual", "annotated", "contour", "contours", "delineation", "delineations", "truth"} | {"probseg"}
)
"""Of these, the ones that mark a label map at the end of a name even if no scan of that name lies beside it."""

WEAK_LABEL_FOLDERS = _words("target targets reference references roi rois lesion lesions structure structures organ organs")
"""Words that mark a folder of label maps if no word in the same name marks images."""

LABEL_FOLDERS = LABEL_WORDS | WEAK_LABEL_FOLDERS | _words("annots labelcol")
"""Words that mark a folder of label maps."""

IMAGE_WORDS = _words("image images img imgs imaging scan scans volume volumes vol vols picture pictures photo photos")
"""Words that mark an image or a folder of images."""

WEAK_IMAGE_WORDS = _words("data raw input inputs original originals orig source dicom nifti")
"""Words that mark a folder of images if a folder of label maps lies beside it."""

LONG_SPLIT_WORDS = frozenset(word for word in PARTS if len(word) > 3)
"""Words for parts of a split that no other word contains by chance."""

BESIDE_SPLIT = _words("set sets case cases folder folders dir data dataset batch phase")
"""Words that may stand beside those of a split."""

BRAIN_MASK = "a mask of the brain"
"""Why a label map is not used where there are others."""

FIELD_OF_VIEW = "a field of view"
"""What a mask of a field of view is, which is used where it belongs to a case."""

OBJECT_FOLDERS = _words("objects instances inst")
"""Words that mark a folder with the numbers of the objects in label maps of another folder."""

_PREVIEWS = "preview previews thumbnail thumbnails thumb overlay overlays screenshot visualization visualisation snp"

DERIVED = {
    **dict.fromkeys(_words(_PREVIEWS), "a preview"),
    **dict.fromkeys(_words("uncertainty probability probabilities prob probs entropy"), "a map of probabilities or uncertainty"),
    "fov": FIELD_OF_VIEW,
    "superpixels": "superpixels",
    "4d": "a 4D series",
    "track": "markers of tracked cells",
}
"""Words that mark what is neither scan nor label map, with the reason why it is not used."""

CONTRASTS = {
    **dict.fromkeys(_words("t1 t1w t1n t1native"), "t1"),
    **dict.fromkeys(_words("t1c t1ce t1gd t1wce t1post t1wgd"), "t1c"),
    **dict.fromkeys(_words("t2 t2w"), "t2"),
    **dict.fromkeys(_words("flair t2f t2flair"), "flair"),
    **{word: word for word in _words("t2star t2starw swi dwi adc pd pdw mprage dir dti fa ct pet mr mri cbct")},
    **{word: word for word in _words("cta us hbv dce cbf cbv ttp tmax mtt sem tem bf")},
}
"""Words that name an image's contrast or modality, and one spelling of each."""

NO_PATIENT = re.compile(
    r"(?:site|subset|cent(?:er|re)|hospital|clinic|vendor|scanner|batch|group|cohort|fold|set|part|training|train|test|val|db|dataset)\W?_?\d*"
    r"|(?:19|20)\d\d",
    re.IGNORECASE,
)
"""Beginnings of names that many patients share."""

_OBSERVER = re.compile(r"(?:(\d)(?:st|nd|rd|th)[a-z]*|(?:observer|rater|reader|annotator|expert|manual)(\d))")
_NUMBERED = re.compile(r"([A-Za-z]+?)(\d+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TRAILING = re.compile(r"(?<=[^\W\d]{3})\d+$")
_TRUTH = re.compile(r"ground[ _-]?truth", re.IGNORECASE)


def split_words(name: str) -> list[str]:
    """The words of a name: between separators, and those written together where one of them has a role ("imagesTr")."""
    found: list[str] = []
    for word in re.split(r"[^\w]+|_", _TRUTH.sub("groundtruth", name)):
        parts = _CAMEL.split(word)
        known = LABEL_FOLDERS | IMAGE_WORDS | LONG_SPLIT_WORDS
        found += [word] if word.casefold() in known or known.isdisjoint(map(str.casefold, parts)) else parts
    return [word for word in found if word]


def read_names(item: Item, *, skip: int = 0) -> Named:
    """What the names of an item tell, the first ``skip`` folders aside."""
    role: Role = ""
    source, split, place, derived, observer = "", "", list[str](), "", 0
    for folder in item.folders[skip:]:
        words = split_words(folder)
        low = [word.casefold() for word in words]
        derived = derived or _derived(low)
        known = _role_of_folder(low)
        if known and not (known == "weak" and role):
            role, source = known, "_".join(word for word in low if word in LABEL_FOLDERS | IMAGE_WORDS or _OBSERVER.fullmatch(word))
        if known == "label":
            observer = next((_observer(word) for word in low if _observer(word)), 0)
        if part := _split_of_folder(low, known):
            split = part
        left = [
            w
            for w, lw in zip(words, low, strict=True)
            if not _is_role_word(lw, known) and not (part and lw in BESIDE_SPLIT | PARTS.keys())
        ]
        if known or part:
            place += ["_".join(left)] if left else []
        else:
            place.append(folder)
    words = split_words(item.stem)
    rest, has_label_word, own_observer = _without_roles(words)
    derived = derived or _derived(word.casefold() for word in words)
    return Named(
        item=item, role=role, source=source, split=split, place=tuple(place), words=tuple(words), rest=rest,
        has_label_word=has_label_word or item.is_label, observer=own_observer or observer, derived=derived,
    )  # fmt: skip


def _derived(low: Iterable[str]) -> str:
    """Why what has these words is neither scan nor label map; numbers at the end of words do not count."""
    return next((DERIVED[word] for given in low if (word := _TRAILING.sub("", given)) in DERIVED), "")


def read_all_names(items: Sequence[Item]) -> list[Named]:
    """What the names of all items tell, without the folders that all of them share."""
    folders = [item.folders for item in items]
    skip = 0
    while folders and len({names[: skip + 1] for names in folders}) == 1 and all(len(names) > skip for names in folders):
        skip += 1
    return [read_names(item, skip=skip) for item in items]


def folder_role(name: str) -> Role:
    """The role of the files in a folder of this name: "image", "weak" for perhaps images, "label" or ""."""
    return _role_of_folder([word.casefold() for word in split_words(name)])


def _role_of_folder(low: list[str]) -> Role:
    plain = [match[1] if (match := _NUMBERED.fullmatch(word)) else word for word in low]
    is_image = any(word in IMAGE_WORDS for word in low)
    if any(word in LABEL_FOLDERS and not (is_image and word in WEAK_LABEL_FOLDERS) for word in plain):
        return "label"
    if is_image:
        return "image"
    return "weak" if any(word in WEAK_IMAGE_WORDS for word in low) else ""


def _split_of_folder(low: list[str], role: str) -> str:
    """The part of a split, if that is all the folder's name says besides its role, a contrast or a number."""
    plain = [word.lstrip("0123456789") for word in low]
    parts = [PARTS[word] or "training" for word in plain if word in PARTS]
    alone = all(len(word) < 2 or word in PARTS or word in BESIDE_SPLIT or word in CONTRASTS for word in plain)
    return parts[-1] if parts and (role or alone) else ""


def _is_role_word(word: str, role: str) -> bool:
    if role == "label":
        return word in LABEL_FOLDERS | IMAGE_WORDS or bool(_observer(word))
    return bool(role) and word in IMAGE_WORDS | WEAK_IMAGE_WORDS


def _observer(word: str) -> int:
    match = _OBSERVER.fullmatch(word)
    return int(match[1] or match[2]) if match else 0


def _without_roles(words: list[str]) -> tuple[tuple[str, ...], bool, int]:
    """The words that have no role, whether one marks a label map, and the observer's number.

    A number after a role word is part of the case's name if it comes first (label0001), else an observer's.
    """
    rest: list[str] = []
    is_label, observer = False, 0
    for i, word in enumerate(words):
        low = word.casefold()
        match = _NUMBERED.fullmatch(low)
        if low in LABEL_WORDS:
            is_label = True
        elif low in KIND_WORDS:
            is_label = True
            rest.append(word)
        elif i and _observer(low):
            is_label, observer = True, _observer(low)
        elif match and match[1] in LABEL_WORDS | IMAGE_WORDS:
            is_label |= match[1] in LABEL_WORDS
            rest.append(match[2])
        elif low not in IMAGE_WORDS:
            rest.append(word)
    return tuple(rest), is_label, observer


def is_brain_mask(words: Sequence[str]) -> bool:
    """True if a name is that of a mask of the brain, which is made on the way to other label maps."""
    return "_brainmask" in f"_{'_'.join(words).casefold()}".replace("brain_mask", "brainmask")


def is_role_word(word: str) -> bool:
    """True if a word of a file's name marks an image or a label map."""
    low = word.casefold()
    return low in LABEL_WORDS | IMAGE_WORDS or bool(_observer(low))


def contrast(word: str) -> str:
    """One spelling of a contrast, so that t1n, T1w and T1 are equal; the word in lower case if it is none."""
    return CONTRASTS.get(word.casefold(), word.casefold())


def shows_channel(one: Named, name: str) -> bool:
    """True if the last words of an image's name, or a folder of it, are a channel's name, or another spelling of its contrast."""
    low, words = name.casefold(), "_".join(one.words).casefold()
    if words == low or words.endswith("_" + low) or low in map(str.casefold, one.place):
        return True
    return bool(one.words) and contrast(one.words[-1]) == contrast(name)


def stem_start(stem: str, words: int) -> str:
    """The beginning of a name with so many words, without the separator after them."""
    end = _end_of(stem, words)
    return stem[:end]


def stem_end(stem: str, words: int) -> str:
    """The rest of a name behind so many words and a separator."""
    return stem[_end_of(stem, words) + 1 :]


def _end_of(stem: str, words: int) -> int:
    for end in range(len(stem)):
        if not stem[end].isalnum() and len(split_words(stem[:end])) == words == len(split_words(stem[: end + 1])):
            return end
    return len(stem)


def may_be_patient(name: str) -> bool:
    """True if a name, or its beginning, may be that of one patient: it has a number, and not only one of a site, year or group."""
    return any(c.isdigit() for c in name) and not NO_PATIENT.fullmatch(name)


def png_beside_jpeg(named: Sequence[Named]) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """Photos, and the PNG of the same name beside each, which must be its label map, as JPEG can hold none."""
    photos, others = divide(named, lambda one: one.item.suffix in (".jpg", ".jpeg"))
    beside = {(one.item.folders, one.item.stem) for one in photos} == {(one.item.folders, one.item.stem) for one in others}
    png = all(one.item.suffix == ".png" for one in others)
    return (photos, others) if beside and png and len(photos) == len(others) > 1 else (tuple(named), ())
