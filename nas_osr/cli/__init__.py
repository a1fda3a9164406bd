"""The command line: every command is one function in a file of its own; `main` finds it, `options` parses for it."""
