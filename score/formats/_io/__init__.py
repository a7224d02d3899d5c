"""Bytes: windows on files, zip records, shards, their checksums."""
