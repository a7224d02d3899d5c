"""Detectors of detectron2 that were saved whole."""
