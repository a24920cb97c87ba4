"""One file a subcommand, each with `main(words) -> exit status`; the file name is the command."""
