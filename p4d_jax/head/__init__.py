"""FLAME-shaped head models: skinning, regions, landmarks, deformation."""
