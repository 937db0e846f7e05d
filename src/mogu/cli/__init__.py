"""The `mogu` command: one thin file a subcommand."""
