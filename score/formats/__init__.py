"""One file a format. See `score.formats.registry` for what such a file offers."""
