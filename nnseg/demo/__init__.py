"""The embedded demonstration data: labelled head phantoms, drawn from a seed."""

__all__ = ["Phantom", "draw_phantom", "write_phantoms"]
