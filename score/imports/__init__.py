"""How code of ours and of users is found and read: the `models/` folder, and files that define classes."""
