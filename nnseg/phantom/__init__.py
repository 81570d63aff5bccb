"""The embedded demonstration data: labelled head phantoms, drawn from a seed."""

from nnseg.phantom.dataset import write_phantoms
from nnseg.phantom.scanner import Phantom, draw_phantom

__all__ = ["Phantom", "draw_phantom", "write_phantoms"]
