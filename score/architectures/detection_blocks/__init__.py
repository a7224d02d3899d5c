"""Networks of torchvision that find things in pictures, saved whole."""
