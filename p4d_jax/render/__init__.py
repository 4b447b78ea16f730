"""Rays, tri-plane, volume, raster."""
