"""Bytes: windows on files, zip records, files that others name, their checksums."""
