"""A stand-in of the parts of 3D Slicer's API that the module in clients/slicer uses: Slicer itself is in no package registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Matrix:
    """vtkMatrix4x4."""

    def __init__(self) -> None:
        self.values = np.eye(4)

    def GetElement(self, row: int, column: int) -> float:  # noqa: N802
        return float(self.values[row, column])


class Volume:
    """A node of a scalar or label-map volume: array (Z, Y, X) and IJKToRAS."""

    def __init__(self, array: Any = None, matrix: Any = None) -> None:
        self.array, self.matrix = array, np.eye(4) if matrix is None else matrix

    def GetName(self) -> str:  # noqa: N802
        return "scan"

    def GetIJKToRASMatrix(self, matrix: Matrix) -> None:  # noqa: N802
        matrix.values = self.matrix

    def SetIJKToRASMatrix(self, matrix: Matrix) -> None:  # noqa: N802
        self.matrix = matrix.values


class Segment(SimpleNamespace):
    def SetName(self, name: str) -> None:  # noqa: N802
        self.name = name


class Segmentation:
    """A segmentation node, and the segmentation in it."""

    def __init__(self, name: str = "") -> None:
        self.name, self.segments = name, list[Segment]()
        self.GetNumberOfSegments: Callable[[], int] = lambda: len(self.segments)
        self.GetNthSegment: Callable[[int], Segment] = lambda number: self.segments[number]
        self.CreateDefaultDisplayNodes: Callable[[], None] = lambda: None

    def GetSegmentation(self) -> Segmentation:  # noqa: N802
        return self

    def SetReferenceImageGeometryParameterFromVolumeNode(self, volume: Volume) -> None:  # noqa: N802
        self.reference = volume


class Field:
    """A widget of Qt as PythonQt shows it, with attributes in the place of setters."""

    Password = 2

    def __init__(self, text: str = "") -> None:
        self.text, self.items, self.node, self.clicked = text, list[str](), None, lambda: None
        self.enabled = True
        self.currentNode = lambda: self.node

    def connect(self, signal: str, slot: Any) -> None:
        assert signal == "clicked(bool)"
        self.clicked = lambda: slot(False)

    def clear(self) -> None:
        self.items.clear()

    def addItem(self, name: str) -> None:  # noqa: N802
        self.items.append(name)

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def currentText(self) -> str:  # noqa: N802
        return self.items[0]

    def __getattr__(self, name: str) -> Any:  # what only changes what is seen
        if name in ("setEchoMode", "setMRMLScene", "addRow", "addLayout"):
            return lambda *_: None
        raise AttributeError(name)


def modules() -> dict[str, ModuleType]:
    """Modules by name as Slicer's Python has them; ``slicer.nodes`` are those of the scene, ``slicer.events`` counts redrawing."""
    slicer, vtk, qt = ModuleType("slicer"), ModuleType("vtk"), ModuleType("qt")
    scripted = ModuleType("slicer.ScriptedLoadableModule")
    nodes: list[Any] = []

    class Part:
        def __init__(self, parent: Any = None) -> None:
            self.parent, self.layout = parent, Field()

        def setup(self) -> None:
            """Nothing to do."""

    def add(kind: str, name: str = "") -> Any:
        nodes.append(Volume() if kind == "vtkMRMLLabelMapVolumeNode" else Segmentation(name))
        return nodes[-1]

    def import_labels(labels: Volume, segmentation: Segmentation) -> None:
        segmentation.segments += [Segment(name=f"Segment_{v}", mask=labels.array == v) for v in np.unique(labels.array) if v]

    @contextmanager
    def try_with_error_display(message: str, waitCursor: bool = False) -> Iterator[None]:
        yield

    def process_events() -> None:
        slicer.events += 1

    for name in ("ScriptedLoadableModule", "ScriptedLoadableModuleWidget", "ScriptedLoadableModuleLogic"):
        setattr(scripted, name, Part)
    vtk.vtkMatrix4x4 = Matrix
    qt.QLineEdit = qt.QComboBox = qt.QPushButton = qt.QFormLayout = Field
    slicer.events, slicer.nodes, slicer.qMRMLNodeComboBox = 0, nodes, Field
    slicer.mrmlScene = SimpleNamespace(AddNewNodeByClass=add, RemoveNode=nodes.remove)
    slicer.app = SimpleNamespace(processEvents=process_events)
    slicer.modules = SimpleNamespace(
        segmentations=SimpleNamespace(logic=lambda: SimpleNamespace(ImportLabelmapToSegmentationNode=import_labels))
    )
    slicer.util = SimpleNamespace(
        arrayFromVolume=lambda volume: volume.array,
        updateVolumeFromArray=lambda volume, array: setattr(volume, "array", array),
        tryWithErrorDisplay=try_with_error_display,
    )
    return {"slicer": slicer, "vtk": vtk, "qt": qt, "slicer.ScriptedLoadableModule": scripted}
