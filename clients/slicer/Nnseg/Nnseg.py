"""A module of 3D Slicer that has volumes segmented by a server of nnseg (``nnseg serve``)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget

sys.path.append(str(Path(__file__).resolve().parents[2] / "python"))  # of a copy of the folder clients, or beside this file

LPS = np.diag([-1.0, -1.0, 1.0])
"""Slicer's positions, in RAS, as LPS."""


class Nnseg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "nnseg"
        parent.categories = ["Segmentation"]
        parent.contributors = ["the authors of nnseg"]
        parent.helpText = "Segments a volume by a model on a server: start one with nnseg serve. For research only."


class NnsegWidget(ScriptedLoadableModuleWidget):
    """Server, token, model and volume, and a button."""

    def setup(self):
        super().setup()
        self.logic = NnsegLogic()
        self.url, self.token, self.model = qt.QLineEdit("http://127.0.0.1:8000"), qt.QLineEdit(), qt.QComboBox()
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.connect, self.apply = qt.QPushButton("Connect"), qt.QPushButton("Segment")
        self.apply.enabled = False
        form = qt.QFormLayout()
        for name, field in (("Server", self.url), ("Token", self.token), ("Model", self.model), ("Volume", self.volume)):
            form.addRow(name, field)
        for button in (self.connect, self.apply):
            form.addRow(button)
        self.layout.addLayout(form)
        self.connect.connect("clicked(bool)", lambda *_: self.on_connect())
        self.apply.connect("clicked(bool)", lambda *_: self.on_apply())

    def on_connect(self):
        """List the models of the server."""
        self.model.clear()
        with slicer.util.tryWithErrorDisplay("The server cannot be asked.", waitCursor=True):
            for name in self.logic.models(self.url.text, self.token.text):
                self.model.addItem(name)
        self.apply.enabled = self.model.count > 0

    def on_apply(self):
        """Segment the volume that is chosen."""
        with slicer.util.tryWithErrorDisplay("The volume cannot be segmented.", waitCursor=True):
            self.logic.segment(self.volume.currentNode(), self.url.text, self.token.text, self.model.currentText)


class NnsegLogic(ScriptedLoadableModuleLogic):
    """The work without the widget, for scripts."""

    def models(self, url, token=""):
        """Names of the models of a server."""
        with client(url, token) as connection:
            return [model.name for model in connection.models()]

    def segment(self, volume, url, token="", model=""):
        """A new segmentation of a volume; the window of Slicer goes on while the server works.

        Args:
            volume: node of a scalar volume.
            url, token: of the server.
            model: its name; by default the first.
        """
        if volume is None:
            raise ValueError("choose a volume")
        spacing, origin, direction = geometry(volume)
        with client(url, token) as connection:
            answer = connection.predict(
                slicer.util.arrayFromVolume(volume), spacing[::-1], origin=origin, direction=direction, model=model, cancelled=go_on
            )
        return show(volume, answer)


def client(url, token):
    """A connection to the server; its library is installed into Slicer's Python if it is missing."""
    try:
        import httpx  # noqa: F401, PLC0415
    except ImportError:
        slicer.util.pip_install("httpx")
    from nnseg_client import Client  # noqa: PLC0415

    return Client(url, token)


def go_on():
    """Let Slicer draw; the prediction is not cancelled."""
    slicer.app.processEvents()
    return False


def geometry(volume):
    """Spacing (x, y, z), origin and direction of a volume in LPS; the columns of the direction are those of the array's x, y, z."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    rows = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(3)])
    axes = LPS @ rows[:, :3]
    spacing = np.linalg.norm(axes, axis=0)
    return tuple(spacing), tuple(LPS @ rows[:, 3]), axes / spacing


def show(volume, answer):
    """A node with a segment for each label that was found, named as the model names it."""
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    labels.SetIJKToRASMatrix(matrix)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} nnseg")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    logic = slicer.modules.segmentations.logic()
    for name, value in answer.labels.items():
        mask = answer.label_map == value
        if value and mask.any():
            slicer.util.updateVolumeFromArray(labels, mask.astype(np.uint8))
            logic.ImportLabelmapToSegmentationNode(labels, segmentation)  # one at a time, so that each keeps its name
            last = segmentation.GetSegmentation().GetNumberOfSegments() - 1
            segmentation.GetSegmentation().GetNthSegment(last).SetName(name)
    slicer.mrmlScene.RemoveNode(labels)
    return segmentation
