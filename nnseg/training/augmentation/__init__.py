"""Augmentation of training patches: intensity, MRI artefacts, pose, deformation, previous segmentations."""
