"""The command line: arguments in, one function call, an exit code out."""
