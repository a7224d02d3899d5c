"""Networks of segmentation-models-pytorch that were saved whole."""
