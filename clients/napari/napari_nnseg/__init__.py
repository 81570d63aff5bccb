"""A widget of napari that has images segmented by a server of nnseg (``nnseg serve``).

Annotations are evaluated at once: magicgui looks for the names of others in its own module.
"""

from typing import Any

import numpy as np
from magicgui import magic_factory
from napari.layers import Image
from napari.qt.threading import FunctionWorker, thread_worker
from napari.types import LayerDataTuple
from nnseg_client import Answer, Client


@magic_factory(call_button="Segment", token={"widget_type": "Password"})
def make_widget(
    image: Image, server: str = "http://127.0.0.1:8000", token: str = "", model: str = ""
) -> FunctionWorker[LayerDataTuple]:
    """Segment an image in the background; napari adds the labels when they are there.

    Args:
        image: a volume (Z, Y, X) or an image (Y, X); RGB becomes three channels.
        server: its address.
        token: that it asks for.
        model: its name; by default the first of the server.
    """
    voxels, spacing = np.asarray(image.data), [float(size) for size in image.scale]
    channels = [voxels[..., channel] for channel in range(voxels.shape[-1])] if image.rgb else [voxels]
    placed = {"name": f"{image.name} nnseg", "scale": image.scale, "translate": image.translate}

    @thread_worker
    def segment() -> LayerDataTuple:
        with Client(server, token) as client:
            answer = client.predict(channels, spacing, model=model)
        return as_layer(answer, placed)

    worker: FunctionWorker[LayerDataTuple] = segment()
    worker.start()
    return worker


def as_layer(answer: Answer, placed: dict[str, Any]) -> LayerDataTuple:
    """The layer of labels of an answer, with names and volumes beside them."""
    volumes = [answer.volumes_ml.get(name, np.nan) for name in answer.labels]
    features = {"index": [*answer.labels.values()], "label": [*answer.labels], "volume_ml": volumes}
    return answer.label_map, placed | {"features": features, "metadata": {"findings": answer.findings}}, "labels"
