"""Networks of timm that were saved whole."""
