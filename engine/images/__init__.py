"""Columns of images: lanes are images, rows of pixels go depth first through rings."""
