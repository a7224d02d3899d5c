"""One file a body format. See `score.codecs.registry` for what such a file offers."""
