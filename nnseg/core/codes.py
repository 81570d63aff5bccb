"""`CODES`: every kind of problem that nnseg finds in data, with the code that messages, ``check --json`` and records name it by.

A code never changes its meaning, and that of a kind which is no longer found is not used again. Text that travels from where a
problem is seen to where it is shown ends in its code, "... copy it again [NS-S002]".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["fixed and noted", "warning", "case rejected", "run refused"]
Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Args:
        severity: what nnseg does about it: in training; `nnseg predict` leaves out a scan whose case would be rejected.
        found, expected: in general; messages say what it was in the case at hand.
        advice: what to do.
        can_allow: a run is not refused for it with ``--allow CODE``.
    """

    severity: Severity
    found: str
    expected: str
    advice: str
    can_allow: bool = False

    @property
    def level(self) -> Level:
        """Of a finding."""
        return _LEVELS[self.severity]


_LEVELS: Final[dict[Severity, Level]] = {
    "fixed and noted": "note",
    "warning": "warning",
    "case rejected": "error",
    "run refused": "error",
}

NOTED: Final = "fixed and noted"
WARNED: Final = "warning"
REJECTED: Final = "case rejected"
REFUSED: Final = "run refused"

COPY, EXPORT, HEADER = "copy the file again", "export the image again", "correct the header"

CODES: Final[dict[str, Kind]] = {
    # the dataset as a whole: its folder, names, cases and labels
    "NS-D001": Kind(REFUSED, "the dataset cannot be used", "a dataset in a known layout", "do what the message says"),
    "NS-D002": Kind(REFUSED, "no case can be used", "at least one case", "correct the files that the other findings name"),
    "NS-D003": Kind(REFUSED, "the layout is not known", "images and label maps that names tell apart", "see docs/layouts.md"),
    "NS-D004": Kind(REFUSED, "dataset.json is malformed", "JSON of a known form", "correct the line that is named"),
    "NS-D005": Kind(REJECTED, "an image has no label map", "one for each case", "add it, or remove the image"),
    "NS-D006": Kind(REJECTED, "a label map has no image", "one for each case", "add it, or remove the label map"),
    "NS-D007": Kind(
        REJECTED, "a channel's file is missing", "as many files as there are channels", "restore it, or remove the case"
    ),
    "NS-D008": Kind(REJECTED, "a case has more channels than declared", "the declared number", "remove files, or declare them"),
    "NS-D009": Kind(REFUSED, "two files have one case's name", "one", "remove or rename one", can_allow=True),
    "NS-D010": Kind(
        REFUSED, "names of cases differ in upper and lower case only", "names that differ in more", "rename one", can_allow=True
    ),
    "NS-D011": Kind(REJECTED, "several images fit one label map", "one, or one per channel", "remove or rename the others"),
    "NS-D012": Kind(
        REFUSED,
        "all images were read as channels of one case",
        "several cases",
        "end names in _0000 after the case's",
        can_allow=True,
    ),
    "NS-D013": Kind(NOTED, "labels were taken from the label maps", "labels declared in dataset.json", "name them there"),
    "NS-D014": Kind(
        REFUSED, "a declared label occurs in no case", "voxels of every label", 'remove it from "labels"', can_allow=True
    ),
    "NS-D015": Kind(WARNED, "a label occurs in one or two cases only", "three or more", "add cases with it"),
    "NS-D016": Kind(REFUSED, "no case has a voxel of a label", "foreground in some cases", "check the label maps"),
    "NS-D017": Kind(REFUSED, "single slices and volumes are mixed", "one kind", "make two datasets of them"),
    "NS-D018": Kind(WARNED, "cases have the same image", "different images", "keep one of them; until then they stay in one fold"),
    "NS-D019": Kind(NOTED, "patients have several cases", "one case each", "nothing: a patient's cases stay in one fold"),
    "NS-D020": Kind(WARNED, "names may show patients with several cases", "one case each", "say with --group-by"),
    "NS-D021": Kind(WARNED, "there are fewer than five cases", "five or more", "add cases: folds and scores suffer"),
    "NS-D022": Kind(NOTED, "numTraining is not the number of cases", "their number", "correct it, or leave it out"),
    "NS-D023": Kind(WARNED, "intensities are not those of the declared modality", "those of it", "correct the channel's name"),
    "NS-D024": Kind(WARNED, "a CT has other intensities than all others", "Hounsfield units", "export it with its rescale tags"),
    "NS-D025": Kind(WARNED, "a file is not listed in dataset.json", "an entry for each case", "add one, or remove the file"),
    "NS-D026": Kind(WARNED, "a case lacks the mask of a label", "a mask of each label", "check that the label is absent there"),
    "NS-D027": Kind(
        WARNED, "the value 255 is learned as a label", "labels", 'declare it as "ignore" if it marks what was not annotated'
    ),
    "NS-D029": Kind(WARNED, "few voxels lie in several masks", "masks that do not overlap", "check them; the later mask counts"),
    "NS-D030": Kind(NOTED, "not all labels are annotated in all cases", "all", "nothing: they do not count where they were not"),
    "NS-D031": Kind(WARNED, "a fold trains on no case with a label", "cases of each label in each fold", "add cases with it"),
    "NS-D032": Kind(WARNED, "no case is held out", "held-out cases", "add cases; until then the quality is unknown"),
    "NS-D033": Kind(NOTED, "lengths are in voxels", "the size of voxels", "give it with --spacing, or in CASE.json"),
    "NS-D034": Kind(REJECTED, "an entry of a list of cases cannot be used", "files that are there", "correct the entry"),
    "NS-D035": Kind(WARNED, "segments have other names than dataset.json", "the same names", "rename one; until then values count"),
    "NS-D036": Kind(NOTED, "values became labels that are not declared", "declared values", "name them in dataset.json"),
    "NS-D037": Kind(REJECTED, "the name of a case cannot be that of a file", "a name without separators", "rename it"),
    "NS-D038": Kind(REFUSED, "more than 5 % of the cases cannot be used", "nearly all", "correct them, or go on with --skip-bad"),
    "NS-D039": Kind(
        WARNED, "a label is annotated in no case", "some with it, or a model that has it", 'give --init, or remove it from "labels"'
    ),
    # image files
    "NS-S001": Kind(REJECTED, "a file cannot be used", "a complete image", "do what the message says"),
    "NS-S002": Kind(REJECTED, "a file ends early", "all bytes that its header announces", COPY),
    "NS-S003": Kind(REJECTED, "a file is missing, empty or unreadable", "an image", "restore it, or check its permissions"),
    "NS-S004": Kind(REJECTED, "a file is no image of its suffix's format", "that format", EXPORT),
    "NS-S005": Kind(NOTED, "a file is compressed contrary to its name", "the name's compression", "nothing: it was read as it is"),
    "NS-S006": Kind(
        REJECTED, "voxels are NaN or Inf", "finite intensities", "replace them, for instance by the background's value"
    ),
    "NS-S007": Kind(NOTED, "voxels were NaN or Inf", "finite intensities", "nothing: they became the channel's least value"),
    "NS-S008": Kind(REJECTED, "a channel is constant", "an image", "export it again, or remove the case"),
    "NS-S009": Kind(WARNED, "a channel is constant", "an image", "check the scan: its label map says little"),
    "NS-S010": Kind(NOTED, "scl_slope is 0 or no number", "a factor", "nothing: as the format says, voxels were not scaled"),
    "NS-S011": Kind(REJECTED, "scl_inter is no number", "a number", HEADER),
    "NS-S012": Kind(REJECTED, "the spacing is zero, negative or no number", "positive numbers", "correct it, or give --spacing"),
    "NS-S013": Kind(NOTED, "pixdim is not the spacing of the sform", "the same", "check which is right; the sform counts"),
    "NS-S014": Kind(WARNED, "a scan is larger than any patient, or tiny", "an extent of cm", "check the unit of its header"),
    "NS-S015": Kind(WARNED, "sform and qform differ", "the same", "check which is right; the sform counts"),
    "NS-S016": Kind(WARNED, "a file states no orientation", "sform or qform", "check left and right in a viewer"),
    "NS-S017": Kind(NOTED, "the qform is broken", "a rotation", "nothing: the sform counts"),
    "NS-S018": Kind(NOTED, "axes are sheared", "right angles", "nothing: the scan was resampled, and label maps back"),
    "NS-S019": Kind(REJECTED, "axes are sheared, or lie in one plane", "right angles", "resample it, or correct the header"),
    "NS-S020": Kind(NOTED, "an axis was taken as slices or channels", "three axes", "check it; export the image with three axes"),
    "NS-S021": Kind(REJECTED, "a file has more axes than an image", "at most one of channels", EXPORT),
    "NS-S022": Kind(NOTED, "a channel was resampled onto the first one's grid", "one grid", "nothing, or resample it yourself"),
    "NS-S023": Kind(REJECTED, "a channel does not cover the first one", "channels of one scan", "check them, or leave one out"),
    "NS-S024": Kind(REJECTED, "a scan has another number of channels", "that of the dataset", "correct files or channel names"),
    "NS-S025": Kind(WARNED, "a file holds further images", "one image", "check that the first is the right one"),
    "NS-S026": Kind(REJECTED, "pages have unequal sizes", "pages of one size", "export them as files, or as one volume"),
    "NS-S027": Kind(NOTED, "the size of voxels is unknown", "a size in mm", "give it with --spacing, or in CASE.json"),
    "NS-S028": Kind(WARNED, "a scan is far larger than the others", "similar sizes", "crop it, or plan for its memory and time"),
    "NS-S029": Kind(NOTED, "a reader's remark", "nothing remarkable", "read it"),
    "NS-S030": Kind(REJECTED, "a compressed file is damaged", "an intact file", COPY),
    "NS-S031": Kind(REJECTED, "the qform is broken", "a rotation", HEADER),
    "NS-S032": Kind(
        WARNED,
        "a scan is unlike those of the training",
        "spacing, size, intensities, texture and layout as theirs",
        "check its label map",
    ),
    "NS-S033": Kind(
        REJECTED, "slices of a DICOM series are missing or uneven", "even steps", "add the missing slices, or resample it"
    ),
    "NS-S034": Kind(
        REJECTED, "slices of a DICOM series lie at one place", "every slice once", "keep one of them, or one time point"
    ),
    "NS-S035": Kind(
        REJECTED, "a folder holds several DICOM series or volumes", "one", "name one, or put each in a folder of its own"
    ),
    "NS-S036": Kind(NOTED, "slices lie a little beside even steps", "even steps", "nothing: they are taken as even"),
    "NS-S037": Kind(REJECTED, "an image asks for more than it may", "less, see docs/limits.md", "cut it, or raise the limit"),
    "NS-S038": Kind(WARNED, "a scan was predicted without a channel", "a file of it", "check its label map, or add the file"),
    "NS-S039": Kind(
        WARNED, "a channel fits another one better some mm away", "channels that lie on one another", "register them (--register)"
    ),
    "NS-S040": Kind(REJECTED, "a channel fits no other one after registration", "channels of one examination", "check the files"),
    "NS-S041": Kind(REJECTED, "a step of preparation cannot be done", "a scan that it is made for", "leave it out, or skip it"),
    "NS-S042": Kind(WARNED, "a step of preparation was skipped", "a scan that it is made for", "check its label map"),
    "NS-S043": Kind(
        NOTED, "a large image was predicted in parts", "one that can be held at once", "nothing; it says what is left out"
    ),
    # label maps
    "NS-L001": Kind(WARNED, "a remark on a label map", "nothing remarkable", "read it"),
    "NS-L002": Kind(REJECTED, "values are no whole numbers", "label values", "resample with nearest neighbour"),
    "NS-L003": Kind(NOTED, "values were rounded", "whole numbers", "nothing: all were within 0.001 of one"),
    "NS-L004": Kind(REJECTED, "a value is not declared", "the declared values", 'add it to "labels", use --auto-labels, or fix it'),
    "NS-L005": Kind(REJECTED, "a value is negative", "values from 0", 'name it in a dataset.json ("ignore"), or correct it'),
    "NS-L006": Kind(REJECTED, "a label is shown that was not annotated", "annotated labels only", "list it, or remove it"),
    "NS-L007": Kind(WARNED, "a label map is empty", "voxels of a label", "check it"),
    "NS-L008": Kind(NOTED, "labels fill the whole image", "some background", "nothing: a background is not needed"),
    "NS-L009": Kind(REJECTED, "the shape is not the image's", "equal shapes", "resample it with nearest neighbour"),
    "NS-L010": Kind(REJECTED, "a label map lies away from its image", "one position", "correct the header of the wrong one"),
    "NS-L011": Kind(NOTED, "a label map lies away from its image by rounding", "one position", "nothing: the image's grid counts"),
    "NS-L012": Kind(NOTED, "axes are stored in another order than the image's", "the same order", "nothing: it was turned"),
    "NS-L013": Kind(NOTED, "a label map covers a part of its image", "all of it", "nothing: it was put into its place"),
    "NS-L014": Kind(NOTED, "a mask has another value than declared", "the declared one", "nothing: the mask was mapped to it"),
    "NS-L015": Kind(WARNED, "a mask has values between two", "two values", "check it: it was divided at the half"),
    "NS-L016": Kind(REJECTED, "a label map is compressed with losses", "exact values", "save it as PNG or NIfTI"),
    # what `nnseg audit` and `nnseg validate` find
    "NS-A001": Kind(WARNED, "cases show the same scan", "different scans", "keep one of them, or keep them in one fold"),
    "NS-A002": Kind(WARNED, "scores depend on a property of the scans", "scores that do not", "look at its subgroups"),
    "NS-A003": Kind(
        WARNED, "a property of the scans goes with the volume of a label", "properties that do not", "remove it, or add cases"
    ),
    "NS-A004": Kind(WARNED, "a model was trained on the cases it is validated on", "other cases", "remove them"),
    # what is not about data
    "NS-P001": Kind(REFUSED, "a plan or recipe is invalid", "known settings that fit the data", "correct the setting"),
    "NS-M001": Kind(REFUSED, "a model is damaged or does not fit", "a model for such scans", "copy it again, or use another"),
    "NS-M002": Kind(
        WARNED, "a map of an explanation fails a check", "one that depends on the weights and the label", "do not explain by it"
    ),
    "NS-R001": Kind(REFUSED, "a run folder cannot be used", "a run of this version", "do what the message says"),
    "NS-E001": Kind(REFUSED, "predictions and references do not match", "pairs on one grid", "correct the folders"),
    "NS-C001": Kind(REFUSED, "a submission breaks a rule of the challenge", "what its rules say", "do what the message says"),
    "NS-X001": Kind(REJECTED, "an unexpected failure", "none", "report it, with the log of --verbose"),
}
"""By code: D for datasets, S for image files, L for label maps, A audits, P plans, M models, R runs,
E evaluation, C challenges, X failures of nnseg."""

ALLOWABLE: Final = frozenset(code for code, kind in CODES.items() if kind.can_allow)
"""The codes that ``--allow`` takes."""
